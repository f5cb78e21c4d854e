"""Kinds of clusters, a file each."""
