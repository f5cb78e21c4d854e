"""A training step is compiled where that is measured to be faster, and long enough to repay it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from trainables.splits import Inputs
from trainables.tasks.base import Forward

LOG = logging.getLogger("paretune")
WARM, TIMED = 3, 10
"""Steps before a measurement, and steps that it takes."""
COMPILE_SECONDS, GAIN = 60.0, 0.2
"""What compiling may take, and the part of a step's time that it may save: a guess to begin by."""


class Raced:
    """A forward that becomes a compiled one if that wins; call :meth:`step` after each step.

    Off on the CPU: there the machine's speed would decide how a trial's sums are rounded, and with
    it whether two equal trials have equal files.
    """

    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        steps: int,
        compiler: Callable[[Forward], Forward] = torch.compile,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.eager = self.forward = forward
        self._device, self._left, self._compiler, self._clock = device, steps, compiler, clock
        self._racing = device.type != "cpu"
        self._count, self._began = 0, 0.0
        self._eager_seconds: float | None = None

    def __call__(self, inputs: Inputs) -> Tensor:
        """The outputs. A compiler that can't do it gives way to eager for good, and it is said."""
        try:
            return self.forward(inputs)
        except torch._dynamo.exc.TorchDynamoException as error:  # nothing was changed so far
            LOG.warning("training is not compiled: %s", str(error).strip().splitlines()[0])
            self.forward, self._racing = self.eager, False
            return self.eager(inputs)

    def step(self) -> None:
        """A step was made."""
        self._left -= 1
        if not self._racing:
            return
        self._count += 1
        if self._count == WARM:
            self._began = self._now()
        elif self._count == WARM + TIMED:
            self._measured((self._now() - self._began) / TIMED)
            self._count = 0

    def _measured(self, seconds: float) -> None:
        """Of the eager step, then of the compiled one."""
        if self._eager_seconds is not None:
            self._racing = False
            if seconds >= self._eager_seconds:
                self.forward = self.eager
            return
        self._eager_seconds = seconds
        self._racing = self._left * seconds * GAIN > COMPILE_SECONDS
        if self._racing:
            self.forward = self._compiler(self.eager)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()
