"""Several studies held against each other."""
