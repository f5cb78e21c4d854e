"""Adam with a rectified variance."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("radam")
class RAdam(Optimizer):
    """Adam whose first steps, of few squares, are rectified or plain momentum (torch.optim.RAdam).

    A warmup that follows from beta2: ``x <- x - lr r_t m / sqrt(v)`` once the rectifier r_t exists.

    Source: Liu et al., On the Variance of the Adaptive Learning Rate, arXiv 1908.03265.
    """

    lr = FloatRange(5e-4, 5e-2, log=True)
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0), help="decoupled, as AdamW's")
    beta1: float = knob(0.9, FloatRange(0.0, 0.999))
    beta2: float = knob(0.999, FloatRange(0.0, 0.99999))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        return torch.optim.RAdam(
            params,
            lr=lr,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            decoupled_weight_decay=True,
            foreach=True,
        )
