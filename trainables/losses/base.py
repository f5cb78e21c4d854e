"""What a loss is: a change of what outputs are trained towards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compression.registry import Plugin, Registry
from trainables.record import Choice
from trainables.splits import Inputs
from trainables.stage import Stage
from trainables.tasks.base import Task

Aim = Callable[[Inputs, Tensor, Tensor], Tensor]
"""A scalar from a batch's inputs, the model's outputs and labels on the outputs' device."""


@dataclass(frozen=True)
class Lessons:
    """What a loss may look at: the task, and the stage on the device where it is trained."""

    task: Task
    stage: Stage
    device: torch.device


class Loss(Plugin, ABC):
    """A loss made of the one before it; the first of them is the task's."""

    @property
    def replaces(self) -> bool:
        """Whether nothing is left of the loss before it."""
        return False

    @abstractmethod
    def over(self, before: Aim, lessons: Lessons) -> Aim:
        """The loss of a training."""


LOSSES: Registry[Loss] = Registry("loss", Loss)


def losses_of(choices: Sequence[Choice], before: Aim, lessons: Lessons) -> Aim:
    """All losses that a trial names over the task's, in their order."""
    for choice in choices:
        before = LOSSES.build(choice.name, choice.args).over(before, lessons)
    return before
