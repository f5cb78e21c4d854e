"""The search: what is suggested, where it runs, what its results mean, when it ends."""
