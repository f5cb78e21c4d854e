"""What an optimizer plugin is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, Plugin, Registry


class Optimizer(Plugin, ABC):
    """A torch optimizer with its own knobs and its own range of learning rates.

    Comparing optimizers over one common range of learning rates compares how well the range suits
    them; ``lr`` is therefore each one's own default search range.
    """

    lr: ClassVar[FloatRange]
    scale_free: ClassVar[bool] = True
    """Whether its steps do not grow with the gradients: adapters' factors on rates hold then."""
    of_pairs: ClassVar[bool] = False
    """Whether it treats the factors A and B of a delta apart.

    Adapters without such factors are refused with it.
    """

    @abstractmethod
    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """The optimizer over ``params``, in training mode where it has modes.

        ``pairs`` are those among ``params`` that are the factors of a delta; what is in no pair is
        trained plainly. A group with ``lr_ratio`` in its dict is stepped at that times the
        learning rate: whoever sets ``group["lr"]`` multiplies by it. Its state is made of tensors
        and JSON scalars, and holds all that its steps depend on.
        """


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", Optimizer)
