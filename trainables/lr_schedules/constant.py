"""No schedule but a warmup."""

from trainables.lr_schedules.base import LR_SCHEDULES, Warmed


@LR_SCHEDULES.register("constant")
class Constant(Warmed):
    """The same learning rate throughout, after a warmup."""

    def after(self, done: float) -> float:
        """Always 1."""
        return 1.0
