"""A straight line."""

from compression.registry import FloatRange, knob
from trainables.lr_schedules.base import LR_SCHEDULES, Warmed, down


@LR_SCHEDULES.register("linear")
class Linear(Warmed):
    """From 1 down to ``floor`` along a line: ``floor + (1 - floor) (1 - t)``."""

    floor: float = knob(0.0, FloatRange(0.0, 1.0))

    def after(self, done: float) -> float:
        """Floor + (1 - floor) (1 - done)."""
        return down(self.floor, 1.0 - done)
