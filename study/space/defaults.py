"""What records leave out: the options of all plugins at their defaults, for ``study.json``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from compression.registry import Plugin
from study.space.options import AXES

__all__ = ["defaults"]


def defaults() -> dict[str, dict[str, dict[str, Any]]]:
    """By axis, plugin and option: its ``value``, and ``when`` it is read.

    ``rest`` is not an axis here: its plugins are methods.
    """
    named = {
        axis: {name: _options(registry[name]) for name in registry}
        for axis, registry in AXES.items()
        if axis != "rest"
    }
    return {
        axis: {name: of for name, of in plugins.items() if of} for axis, plugins in named.items()
    }


def _options(plugin: type[Plugin]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(plugin):
        when = plugin.knobs()[field.name].when
        found[field.name] = {"value": field.default}
        if when:
            found[field.name]["when"] = {other: list(values) for other, values in when.items()}
    return found
