"""Kinds of plugins, by the names that ``--list`` and ``python -m study.reference`` take."""

from __future__ import annotations

import importlib
from typing import Any

from compression.registry import Registry

KINDS = {
    "methods": ("compression.methods", "METHODS"),
    "inits": ("compression.inits", "INITS"),
    "adapters": ("compression.adapters", "ADAPTERS"),
    "allocators": ("compression.allocation", "ALLOCATORS"),
    "optimizers": ("trainables.optimizers", "OPTIMIZERS"),
    "lr_schedules": ("trainables.lr_schedules", "LR_SCHEDULES"),
    "losses": ("trainables.losses", "LOSSES"),
    "hooks": ("trainables.hooks", "HOOKS"),
    "tasks": ("trainables.tasks", "TASKS"),
    "recipes": ("trainables.recipes", "RECIPES"),
    "schedulers": ("study.schedulers", "SCHEDULERS"),
    "searchers": ("study.searchers", "SEARCHERS"),
}
"""The module and the name in it of each registry: importing one can take seconds."""


def registry(kind: str) -> Registry[Any]:
    """The plugins of a kind."""
    module, name = KINDS[kind]
    found: Registry[Any] = getattr(importlib.import_module(module), name)
    return found
