"""Hooks by name: what acts on a training beside its adapter. Adding one: a file and a line."""

from trainables.hooks.base import HOOKS, Hook, Scene
from trainables.hooks.none import NoHook

__all__ = ["HOOKS", "Hook", "NoHook", "Scene"]
