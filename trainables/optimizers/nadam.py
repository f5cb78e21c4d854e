"""Adam with Nesterov momentum."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("nadam")
class NAdam(Optimizer):
    """Adam with Nesterov momentum (torch.optim.NAdam): the step looks ahead by the next beta1.

    Source: Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016.
    """

    lr = FloatRange(3e-4, 3e-2, log=True)
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0), help="decoupled, as AdamW's")
    beta1: float = knob(0.9, FloatRange(0.0, 0.999))
    beta2: float = knob(0.999, FloatRange(0.0, 0.99999))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        return torch.optim.NAdam(
            params,
            lr=lr,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            decoupled_weight_decay=True,
            foreach=True,
        )
