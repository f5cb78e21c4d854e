"""Half a cosine."""

import math

from compression.registry import FloatRange, knob
from trainables.lr_schedules.base import LR_SCHEDULES, Warmed, down


@LR_SCHEDULES.register("cosine")
class Cosine(Warmed):
    """From 1 down to `floor` along half a cosine (arXiv 1608.03983, without restarts)."""

    floor: float = knob(0.0, FloatRange(0.0, 1.0))

    def after(self, done: float) -> float:
        """Floor + (1 - floor) * (1 + cos(pi * done)) / 2."""
        return down(self.floor, (1.0 + math.cos(math.pi * done)) / 2.0)
