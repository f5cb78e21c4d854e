"""Adapters whose layers are PEFT's, and what puts them behind the contract."""
