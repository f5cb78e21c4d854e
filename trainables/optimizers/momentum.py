"""Stochastic gradient descent with heavy-ball momentum."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("momentum")
class Momentum(Optimizer):
    """Gradient descent with Polyak's momentum (torch.optim.SGD).

    ``v <- mu v + g``, ``x <- x - lr v``, without Nesterov's look-ahead, which ``sgd`` has.

    Source: Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    """

    scale_free = False
    lr = FloatRange(1e-3, 0.3, log=True)
    momentum: float = knob(0.9, FloatRange(0.0, 0.999))
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        return torch.optim.SGD(
            params, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay, foreach=True
        )
