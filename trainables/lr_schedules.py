"""Learning-rate schedules by name: the factor on the learning rate at a share of the training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from compression.registry import FloatRange, Plugin, Registry, knob


class LrSchedule(Plugin, ABC):
    """A factor in [0, 1] as a function of progress."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The factor at ``progress`` in [0, 1], the share of all steps that are done."""


LR_SCHEDULES: Registry[LrSchedule] = Registry("lr_schedule", LrSchedule)


@LR_SCHEDULES.register("constant")
class Constant(LrSchedule):
    """The same learning rate throughout."""

    def factor(self, progress: float) -> float:
        """Always 1."""
        return 1.0


@LR_SCHEDULES.register("cosine")
class Cosine(LrSchedule):
    """From 1 down to `floor` along half a cosine (arXiv 1608.03983, without restarts)."""

    floor: float = knob(0.0, FloatRange(0.0, 1.0))

    def factor(self, progress: float) -> float:
        """Floor + (1 - floor) * (1 + cos(pi * progress)) / 2."""
        return self.floor + (1.0 - self.floor) * (1.0 + math.cos(math.pi * progress)) / 2.0
