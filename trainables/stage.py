"""A model as its training sees it: from the first thing that changes on, with the data there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from trainables.splits import Split
from trainables.tasks.base import Forward, Prepared, Task


@dataclass(frozen=True)
class Stage:
    """What a recipe trains and a report scores.

    ``forward`` takes what ``train`` and ``validation`` hand out: inputs of the whole ``model``, or
    values from inside it where the part before them is frozen and was run once for all trials
    (:mod:`trainables.features`). It shares ``model``'s parameters. ``note`` says what is skipped,
    or why nothing is. ``reads`` has the changed layers that are called with a value of
    ``train`` and ``validation`` as it stands there, each with that value's name. ``own_inputs``
    says that ``train`` holds inputs of the task, which it may distort. ``dense`` is the dense
    model, on the CPU; ``forward_of`` makes of it, or of a copy, what ``forward`` is of ``model``.
    """

    model: nn.Module
    forward: Forward
    train: Split
    validation: Split
    dense: nn.Module
    forward_of: Callable[[nn.Module], Forward]
    note: str = ""
    reads: Mapping[str, str] = field(default_factory=dict)
    own_inputs: bool = True


def whole(task: Task, model: nn.Module, data: Prepared, note: str = "") -> Stage:
    """The stage that skips nothing."""

    def forward_of(any_model: nn.Module) -> Forward:
        return partial(task.forward, any_model)

    parts = (data.train, data.validation, data.model)
    return Stage(model, forward_of(model), *parts, forward_of, note)
