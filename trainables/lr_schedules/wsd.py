"""Warmup, stable, decay."""

import math
from collections.abc import Callable

from compression.registry import FloatRange, Values, knob
from trainables.lr_schedules.base import LR_SCHEDULES, Warmed, down

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: (1.0 + math.cos(math.pi * t)) / 2.0,
    "root": lambda t: 1.0 - math.sqrt(t),
}
"""What is left at the share t of the decay, from 1 to 0."""


@LR_SCHEDULES.register("wsd")
class Wsd(Warmed):
    """Warmup-stable-decay: 1 from the warmup on, and a short way down to ``floor`` at the end.

    The last ``decay`` of what comes after the warmup goes down, by what the shape leaves:
    ``linear`` 1 - t, ``cosine`` half a cosine, ``root`` 1 - sqrt(t).

    Source: MiniCPM, arXiv 2404.06395; the root, Hagele et al., arXiv 2405.18392.
    """

    decay: float = knob(
        0.2, FloatRange(0.01, 1.0), search=FloatRange(0.1, 0.5), help="share that goes down"
    )
    shape: str = knob("linear", Values(tuple(SHAPES)), help="of the way down")
    floor: float = knob(0.0, FloatRange(0.0, 1.0))

    def after(self, done: float) -> float:
        """1 until ``1 - decay``, then down to the floor."""
        into = min(1.0, max(0.0, (done - (1.0 - self.decay)) / self.decay))
        return down(self.floor, SHAPES[self.shape](into))
