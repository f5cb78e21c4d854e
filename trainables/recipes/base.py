"""What a recipe is: a training procedure that is pulled, epoch by epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from compression.registry import Plugin, Registry
from trainables.checkpoint import State
from trainables.record import Trial
from trainables.stage import Stage
from trainables.tasks.base import Task


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the message names epoch and step."""


@dataclass(frozen=True)
class Progress:
    """What one epoch did: ``epochs_done`` in all, the epoch's mean training loss."""

    epochs_done: int
    train_loss: float


class Run(ABC):
    """A training under way. It changes its stage's model in place."""

    @abstractmethod
    def advance(self) -> Progress:
        """Train one epoch.

        Raises:
            NonFiniteLoss: at the first step whose loss is not finite.
        """

    @abstractmethod
    def state(self) -> State:
        """Everything that the rest of the training depends on."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go on exactly as the run that ``state`` was taken from would have."""


class Recipe(Plugin, ABC):
    """A training procedure.

    ``min_fidelity(epochs)`` is the epoch before which nothing may stop a trial, because its metric
    cannot be judged yet.
    """

    def min_fidelity(self, epochs: int) -> int:
        """Epochs before which a scheduler must let every trial go on."""
        return 0

    @abstractmethod
    def start(self, stage: Stage, task: Task, trial: Trial) -> Run:
        """Begin; the stage's model is compressed and adapted already."""


RECIPES: Registry[Recipe] = Registry("recipe", Recipe)
