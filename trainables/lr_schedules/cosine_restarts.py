"""Cosines with restarts."""

import math

from compression.registry import FloatRange, IntRange, Values, knob
from trainables.lr_schedules.base import LR_SCHEDULES, LrSchedule, down


@LR_SCHEDULES.register("cosine_restarts")
class CosineRestarts(LrSchedule):
    """Half cosines in ``cycles`` cycles of one length, each with a short warmup from 0.

    With ``cosine_of=training`` it is ReLoRA's jagged cosine: one cosine over the whole training, to
    which the warmup of each cycle leads back. With ``cycle`` each cycle is a cosine from 1 down to
    ``floor``, as in SGDR.

    Source: ReLoRA, arXiv 2307.05695; SGDR, arXiv 1608.03983.
    """

    cycles: int = knob(4, IntRange(1, 1000), Values((2, 4, 8)))
    warmup: float = knob(0.05, FloatRange(0.0, 0.9), help="share of each cycle; 0 is none")
    cosine_of: str = knob("training", Values(("training", "cycle")), help="what a cosine spans")
    floor: float = knob(0.0, FloatRange(0.0, 1.0))

    def factor(self, progress: float) -> float:
        """The cosine, times what the cycle's warmup lets through."""
        cycle = min(self.cycles - 1, math.floor(progress * self.cycles))
        into = min(1.0, progress * self.cycles - cycle)
        ramp = into / self.warmup if into < self.warmup else 1.0
        own = max(0.0, into - self.warmup) / (1.0 - self.warmup)
        done = progress if self.cosine_of == "training" else own
        return ramp * down(self.floor, (1.0 + math.cos(math.pi * done)) / 2.0)
