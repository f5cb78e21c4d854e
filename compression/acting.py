"""What acts on a model while it is trained: adapters that change their rank, and hooks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Moment:
    """Where a training stands: ``step`` steps are done of ``steps``, ``lr`` is that of the next."""

    step: int
    steps: int
    lr: float

    @property
    def progress(self) -> float:
        """The share of all steps that are done."""
        return self.step / self.steps


class Acting:
    """Called at each training step. By default it does nothing, and ships what is trained.

    Of a step that overflows in half precision, and is left out, there are no gradients to be told
    of: :meth:`after_backward` is not called then.
    """

    resizes: ClassVar[bool] = False
    """Whether the bytes of what is stored may change while it acts."""
    rewires: ClassVar[bool] = False
    """Whether what is computed changes from step to step: ranks, layers that are off."""
    renewals: int = 0
    """Counts up when parameters begin to mean something else: averages begin anew then."""

    def before_step(self, moment: Moment) -> None:
        """Before the forward pass."""

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss of this step."""
        return None

    def after_backward(self, moment: Moment) -> None:
        """Gradients of this step are there, and may be changed."""

    def after_step(self, moment: Moment) -> None:
        """The optimizer has moved the parameters; ``moment`` is still that of the step."""

    def settled(self, moment: Moment) -> bool:
        """Whether what is stored has its final form from here on: ranks, zeros, bytes."""
        return True

    def shipping(self) -> AbstractContextManager[None]:
        """Within it the model is what would ship now; then it is what is trained again."""
        return nullcontext()

    def state(self) -> dict[str, Any]:
        """What the rest of the training depends on: tensors, numbers, lists, dicts of them."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on as the one would that ``state`` was taken from."""
