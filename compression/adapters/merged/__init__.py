"""Adapters that end inside the packed weight."""
