"""MARS."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, Values, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("mars")
class Mars(Optimizer):
    """A base optimizer on gradients of lower variance (pytorch_optimizer), tensor by tensor.

    It is fed ``c = g_t + gamma b1 / (1 - b1) (g_t - g_{t-1})``, cut to a norm of 1. g_{t-1} is
    of the batch before, the published approximation, and not of this one at the point before.

    Source: MARS, arXiv 2411.10438, catalogue 001-138.
    """

    catalogue_id = "001-138"
    lr = FloatRange(3e-4, 3e-2, log=True)
    gamma: float = knob(0.025, FloatRange(0.0, 1.0), Values((0.0, 0.01, 0.025, 0.05, 0.1)))
    base: str = knob(
        "adamw",
        Values(("adamw", "lion", "shampoo")),
        help="lion wants a tenth of the learning rate; shampoo orthogonalises matrices alone",
    )
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0), help="decoupled, as AdamW's")
    beta1: float = knob(0.95, FloatRange(0.0, 0.999))
    beta2: float = knob(0.99, FloatRange(0.0, 0.99999))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        from pytorch_optimizer import MARS  # here, as it costs a second

        return MARS(
            params,
            lr=lr,
            betas=(self.beta1, self.beta2),
            gamma=self.gamma,
            mars_type=self.base,  # type: ignore[arg-type]  # one of its knob's values
            optimize_1d=True,  # else vectors have a learning rate of their own
            weight_decay=self.weight_decay,
        )
