"""Which layers go together, and under which name."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from compression.rules import patterns, target_layers
from trainables.tasks import Task


def target_names(task: Task) -> list[str]:
    """The dotted names of a task's target layers, in model order."""
    return list(target_layers(task.skeleton(), task.targets))


def each(names: Iterable[str]) -> dict[str, str]:
    """Each layer by itself, under its own name."""
    return {name: glob.escape(name) for name in names}


def blocks(names: Iterable[str]) -> dict[str, str]:
    """The layers of a block together: those with one dotted prefix up to the first number in it.

    ``encoder.layer.3.attention.query`` and ``encoder.layer.3.output`` are of ``encoder.layer.3``. A
    layer outside of blocks is by itself.
    """
    found: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        depth = next((i for i, part in enumerate(parts, 1) if part.isdigit()), len(parts))
        block = ".".join(parts[:depth])
        found[block] = glob.escape(block) + (".*" if depth < len(parts) else "")
    return found


NAMED: Mapping[str, Callable[[Iterable[str]], dict[str, str]]] = {"each": each, "blocks": blocks}


def owned(groups: Mapping[str, str], names: Iterable[str]) -> dict[str, list[str]]:
    """The layers of each group: a layer is of the first that has a pattern which it matches."""
    found: dict[str, list[str]] = {group: [] for group in groups}
    for name in names:
        for group, text in groups.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns(text)):
                found[group].append(name)
                break
    return found
