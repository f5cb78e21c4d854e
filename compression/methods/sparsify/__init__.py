"""Fewer weights, by themselves or in patterns."""
