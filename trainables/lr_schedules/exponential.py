"""The same share lost at every step."""

from compression.registry import FloatRange, knob
from trainables.lr_schedules.base import LR_SCHEDULES, Warmed


@LR_SCHEDULES.register("exponential")
class Exponential(Warmed):
    """From 1 down to ``end``, losing the same share at every step: ``end^t``."""

    end: float = knob(0.01, FloatRange(1e-6, 1.0, log=True), help="factor at the end")

    def after(self, done: float) -> float:
        """End to the power of done."""
        factor: float = self.end**done
        return factor
