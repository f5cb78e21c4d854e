"""LoRA+: B learns faster than A."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("lora_plus")
class LoraPlus(Optimizer):
    """LoRA+: Adam whose learning rate of B is ``ratio`` times that of A: ``lr_B = ratio lr_A``.

    The study's learning rate is A's, and that of what is in no pair; at ratio 1 it is ``adam``.
    At equal rates A hardly takes part in what a wide layer learns, as B starts at 0.

    Source: Hayou et al., LoRA+, arXiv 2402.12354, catalogue 001-80.
    """

    catalogue_id = "001-80"
    of_pairs = True
    lr = FloatRange(1e-4, 1e-2, log=True)
    ratio: float = knob(
        16.0, FloatRange(1.0, 1000.0, log=True), search=FloatRange(2.0, 64.0, log=True)
    )
    beta1: float = knob(0.9, FloatRange(0.0, 0.999))
    beta2: float = knob(0.999, FloatRange(0.0, 0.99999))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        fast = {id(pair.B) for pair in pairs}
        slow_ones = [p for p in params if id(p) not in fast]
        fast_ones = [p for p in params if id(p) in fast]
        groups = [
            {"params": slow_ones, "lr": lr, "lr_ratio": 1.0},
            {"params": fast_ones, "lr": lr * self.ratio, "lr_ratio": self.ratio},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.Adam(groups, lr=lr, betas=(self.beta1, self.beta2), fused=True)
