"""A staircase."""

import math

from compression.registry import FloatRange, IntRange, knob
from trainables.lr_schedules.base import LR_SCHEDULES, Warmed


@LR_SCHEDULES.register("step")
class Step(Warmed):
    """Constant but for drops, evenly over the training: ``by^floor(t (drops + 1))``."""

    drops: int = knob(2, IntRange(1, 100))
    by: float = knob(0.1, FloatRange(1e-3, 1.0), help="factor of each drop")

    def after(self, done: float) -> float:
        """By to the power of the drops that are passed."""
        passed = min(self.drops, math.floor(done * (self.drops + 1)))
        return self.by**passed
