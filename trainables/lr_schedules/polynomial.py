"""A power of what is left."""

from compression.registry import FloatRange, knob
from trainables.lr_schedules.base import LR_SCHEDULES, Warmed, down


@LR_SCHEDULES.register("polynomial")
class Polynomial(Warmed):
    """From 1 to ``floor`` by a power of what is left: ``floor + (1 - floor) (1 - t)^power``."""

    power: float = knob(2.0, FloatRange(0.01, 10.0), help="1 is linear")
    floor: float = knob(0.0, FloatRange(0.0, 1.0))

    def after(self, done: float) -> float:
        """Floor + (1 - floor) (1 - done)^power."""
        return down(self.floor, (1.0 - done) ** self.power)
