"""Adafactor."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, Values, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("adafactor")
class Adafactor(Optimizer):
    """Second moments by row and column means (pytorch_optimizer): ``v ~ R C / mean(R)``, O(m + n).

    The update is divided by its RMS where that is above 1; no momentum. torch.optim.Adafactor caps
    the learning rate at ``1 / sqrt(t)`` and always scales it by the RMS of the tensor, at least
    1e-3: a B that starts at 0 hardly moves, and two learning rates above the cap are one. Here the
    learning rate is what the study says.

    Source: Shazeer and Stern, Adafactor, arXiv 1804.04235.
    """

    lr = FloatRange(3e-4, 3e-2, log=True)
    relative: bool = knob(
        False,
        Values((False, True)),
        help="step in proportion to the tensor's RMS, as published: wants 10-100 times the rate",
    )
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0), help="decoupled, as AdamW's")

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        from pytorch_optimizer import AdaFactor  # here, as it costs a second

        return AdaFactor(
            params,
            lr=lr,
            betas=(None, 0.999),  # no momentum, and a cap on the decay that step 5,600 reaches
            weight_decay=self.weight_decay,
            scale_parameter=self.relative,
            relative_step=False,
        )
