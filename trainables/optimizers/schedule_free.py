"""Schedule-free AdamW."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, IntRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("schedule_free")
class ScheduleFree(Optimizer):
    """AdamW at the mean of its own path, in place of a schedule (pytorch_optimizer).

    Gradients are taken at ``y = (1 - b1) z + b1 x``, z is stepped by them and x is z's mean, each
    weighted by the square of its learning rate. In training mode the parameters are y; ``eval()``
    makes them x, which is what is scored and shipped, and ``train()`` goes back.

    Source: Defazio et al., The Road Less Scheduled, arXiv 2405.15682.
    """

    lr = FloatRange(1e-3, 5e-2, log=True)
    warmup_steps: int = knob(0, IntRange(0, 100_000), help="steps of a linear warmup")
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0), help="taken at y, as published")
    beta1: float = knob(0.9, FloatRange(0.1, 0.999), help="of the interpolation")
    beta2: float = knob(0.999, FloatRange(0.0, 0.99999))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        from pytorch_optimizer import ScheduleFreeAdamW  # here, as it costs a second

        return ScheduleFreeAdamW(
            params,
            lr=lr,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
        )
