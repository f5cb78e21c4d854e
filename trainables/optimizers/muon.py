"""Muon for matrices, AdamW for the rest."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer
from trainables.optimizers.joined import Joined


@OPTIMIZERS.register("muon")
class Muon(Optimizer):
    """Orthogonalised momentum for 2-D tensors (torch.optim.Muon), AdamW for all others.

    Convolution kernels, magnitudes and biases are not matrices: they are trained by AdamW at the
    same learning rate, which the RMS-matching step size of arXiv 2502.16982 makes comparable.
    """

    lr = FloatRange(3e-4, 3e-2, log=True)
    momentum: float = knob(0.95, FloatRange(0.0, 0.999))
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        matrices = [p for p in params if p.ndim == 2]
        others = [p for p in params if p.ndim != 2]
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=lr,
                    momentum=self.momentum,
                    weight_decay=self.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            parts.append(
                torch.optim.AdamW(others, lr=lr, weight_decay=self.weight_decay, foreach=True)
            )
        return Joined.of(parts)
