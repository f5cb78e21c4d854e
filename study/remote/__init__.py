"""A study on a cluster: what its user's machine does, and what the cluster's head does."""
