"""What a recipe is: a training procedure that is pulled, epoch by epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from compression.adapters import Adapter
from compression.inits import Init
from compression.methods import Method
from compression.registry import Plugin, Registry
from trainables.checkpoint import State
from trainables.record import Trial
from trainables.stage import Stage
from trainables.tasks.base import Forward, Task


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

    @property
    def settled(self) -> bool:
        """Whether what is stored has its final form: ranks, zeros, bytes."""
        return True

    @property
    def resizes(self) -> bool:
        """Whether the bytes of what is stored may change while it is trained."""
        return False

    def shipping(self) -> AbstractContextManager[None]:
        """Within it the model holds what would ship now, where that is not what is trained."""
        return nullcontext()

    def blended(self) -> Forward | None:
        """The forward under training, where that is not yet the one that ships; scored beside it.

        The stage's own forward where it has become that; None in a run that has no other.
        """
        return None

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

    keeps_base: ClassVar[bool] = True
    """Whether a model can be trained by it whose base stays: the dense one, say."""

    @property
    def whole_model(self) -> bool:
        """Whether it looks at parts of the model in front of the layers that a trial changes.

        These are not run then where features are cached, so the whole model is.
        """
        return False

    def refusals(
        self,
        model: nn.Module,
        methods: Collection[Method],
        adapters: Collection[Adapter],
        inits: Collection[Init] = (),
    ) -> Iterator[str]:
        """Why it cannot train this dense model under these methods, adapters and inits.

        A sentence each, as far as the architecture tells; values may be on the device ``meta``.
        """
        yield from ()

    def min_fidelity(self, epochs: int) -> int:
        """Epochs before which a scheduler must let every trial go on."""
        return 0

    @abstractmethod
    def start(self, stage: Stage, task: Task, trial: Trial) -> Run:
        """Begin; the stage's model is compressed and adapted already."""


RECIPES: Registry[Recipe] = Registry("recipe", Recipe)
