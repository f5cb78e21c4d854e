"""One cycle: up, and down to almost nothing."""

import math

from compression.registry import FloatRange, knob
from trainables.lr_schedules.base import LR_SCHEDULES, LrSchedule, down


@LR_SCHEDULES.register("one_cycle")
class OneCycle(LrSchedule):
    """One cycle: from ``start`` up to 1 over the share ``rise``, then down to ``end``, by cosines.

    Its rise is its warmup. Of the learning rate alone: momentum stays as it is.

    Source: Smith and Topin, Super-Convergence, arXiv 1708.07120.
    """

    rise: float = knob(
        0.3, FloatRange(0.01, 0.99), search=FloatRange(0.1, 0.5), help="share that goes up"
    )
    start: float = knob(0.04, FloatRange(0.0, 1.0))
    end: float = knob(0.0, FloatRange(0.0, 1.0))

    def factor(self, progress: float) -> float:
        """Half a cosine up, half a cosine down."""
        if progress < self.rise:
            return down(self.start, (1.0 - math.cos(math.pi * progress / self.rise)) / 2.0)
        done = (progress - self.rise) / (1.0 - self.rise)
        return down(self.end, (1.0 + math.cos(math.pi * done)) / 2.0)
