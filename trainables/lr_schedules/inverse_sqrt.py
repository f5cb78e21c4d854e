"""One over the root of time."""

import math

from compression.registry import FloatRange, knob
from trainables.lr_schedules.base import LR_SCHEDULES, Warmed


@LR_SCHEDULES.register("inverse_sqrt")
class InverseSqrt(Warmed):
    """One over the root of time: ``1 / sqrt(1 + t / timescale)``, whatever the length of training.

    With t from the end of the warmup on. At ``timescale = warmup / (1 - warmup)`` it is that of the
    Transformer, ``sqrt(warmup / p)`` at progress p (arXiv 1706.03762); apart from the warmup it
    is that of arXiv 2106.04560.
    """

    timescale: float = knob(
        0.1, FloatRange(1e-3, 10.0, log=True), help="as a share of what comes after the warmup"
    )

    def after(self, done: float) -> float:
        """1 / sqrt(1 + done / timescale)."""
        return 1.0 / math.sqrt(1.0 + done / self.timescale)
