"""The part of a model that no trial changes: found, run once, kept on disk."""
