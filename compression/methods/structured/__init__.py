"""Fewer channels and blocks: the network itself becomes smaller."""
