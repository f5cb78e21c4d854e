"""What a learning-rate schedule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from compression.registry import FloatRange, Plugin, Registry, knob


class LrSchedule(Plugin, ABC):
    """A factor in [0, 1] as a function of progress."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The factor at ``progress`` in [0, 1], the share of all steps that are done."""


@dataclass(frozen=True)
class Warmed(LrSchedule):
    """A linear warmup over the first ``warmup`` of the training, and a schedule of all the rest."""

    warmup: float = knob(0.0, FloatRange(0.0, 0.9), help="share of the training; 0 is none")

    def factor(self, progress: float) -> float:
        """``p / warmup`` before its end, then what follows it at (p - warmup) / (1 - warmup)."""
        if progress < self.warmup:
            return progress / self.warmup
        return self.after((progress - self.warmup) / (1.0 - self.warmup))

    @abstractmethod
    def after(self, done: float) -> float:
        """The factor at the share ``done`` in [0, 1] of what comes after the warmup."""


def down(floor: float, left: float) -> float:
    """From 1 at ``left`` = 1 to ``floor`` at 0, never above 1 by rounding."""
    return min(1.0, floor + (1.0 - floor) * left)


LR_SCHEDULES: Registry[LrSchedule] = Registry("lr_schedule", LrSchedule)
