"""Adam."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("adam")
class Adam(Optimizer):
    """Adam (torch.optim.Adam; arXiv 1412.6980)."""

    lr = FloatRange(3e-4, 3e-2, log=True)
    beta1: float = knob(0.9, FloatRange(0.0, 0.999))
    beta2: float = knob(0.999, FloatRange(0.0, 0.99999))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        return torch.optim.Adam(params, lr=lr, betas=(self.beta1, self.beta2), fused=True)
