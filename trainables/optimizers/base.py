"""What an optimizer plugin is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from compression.registry import FloatRange, Plugin, Registry


class Optimizer(Plugin, ABC):
    """A torch optimizer with its own knobs and its own range of learning rates.

    Comparing optimizers over one common range of learning rates compares how well the range suits
    them; ``lr`` is therefore each one's own default search range.
    """

    lr: ClassVar[FloatRange]

    @abstractmethod
    def build(self, params: Sequence[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """The optimizer over ``params``."""


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", Optimizer)
