"""RMSprop."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("rmsprop")
class RmsProp(Optimizer):
    """Gradients over the root of their mean square (torch.optim.RMSprop).

    ``v <- alpha v + (1 - alpha) g^2``, ``x <- x - lr g / sqrt(v)``. v starts at 0 and is
    not corrected for that: the first steps are up to ``1 / sqrt(1 - alpha)`` times as long.

    Source: Tieleman and Hinton, lecture 6.5 of Neural Networks for Machine Learning, 2012.
    """

    lr = FloatRange(1e-4, 1e-2, log=True)
    alpha: float = knob(0.99, FloatRange(0.0, 0.99999), help="decay of the mean square")
    momentum: float = knob(0.0, FloatRange(0.0, 0.999))
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        return torch.optim.RMSprop(
            params,
            lr=lr,
            alpha=self.alpha,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            foreach=True,
        )
