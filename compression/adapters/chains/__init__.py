"""Adapters of our own whose delta is a chain of matrices."""
