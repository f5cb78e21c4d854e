"""Lion."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("lion")
class Lion(Optimizer):
    """Signs of an interpolated momentum (pytorch_optimizer).

    ``x <- x - lr sign(b1 m + (1 - b1) g)``, then ``m <- b2 m + (1 - b2) g``. Every entry moves by
    the learning rate, so that it wants about a tenth of Adam's.

    Source: Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv 2302.06675.
    """

    lr = FloatRange(3e-5, 3e-3, log=True)
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0), help="decoupled, as AdamW's")
    beta1: float = knob(0.9, FloatRange(0.0, 0.999), help="of the interpolation")
    beta2: float = knob(0.99, FloatRange(0.0, 0.99999), help="of the momentum")

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        from pytorch_optimizer import Lion as Published  # here, as it costs a second

        return Published(
            params, lr=lr, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay
        )
