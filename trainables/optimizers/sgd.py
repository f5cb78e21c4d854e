"""Stochastic gradient descent."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("sgd")
class Sgd(Optimizer):
    """Stochastic gradient descent with Nesterov momentum (torch.optim.SGD)."""

    scale_free = False
    lr = FloatRange(1e-3, 0.3, log=True)
    momentum: float = knob(
        0.9, FloatRange(0.0, 0.999), help="0 is plain gradient descent, without Nesterov's step"
    )
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        return torch.optim.SGD(
            params,
            lr=lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
            foreach=True,
        )
