"""A few training examples that can be put through a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Calibration:
    """Calibration examples, and how a model takes them.

    ``batch`` gives those with these numbers, (b,) int64 below ``count``; ``forward`` a model's
    outputs for a batch, ``loss`` its mean training loss. ``mask`` says which positions of a batch
    of sequences are real, (b, t), None where all are.
    """

    count: int
    batch: Callable[[Tensor], Any]
    forward: Callable[[nn.Module, Any], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    mask: Callable[[Any], Tensor | None] = lambda batch: None
    batch_size: int = 32

    def numbers(self, count: int = 0) -> Tensor:
        """All numbers, or ``count`` of them in even steps: their order may be one of length."""
        if not 0 < count < self.count:
            return torch.arange(self.count)
        return torch.arange(count) * self.count // count + self.count // (2 * count)

    def batches(self, size: int = 0, count: int = 0) -> Iterator[Any]:
        """The examples of :meth:`numbers`, ``size`` or ``batch_size`` at a time."""
        for some in self.numbers(count).split(size or self.batch_size):  # type: ignore[no-untyped-call]
            yield self.batch(some)

    @torch.no_grad()
    def run(self, model: nn.Module) -> None:
        """Put all examples through a model, for what hooks see of it."""
        with evaluating(model):
            for batch in self.batches():
                self.forward(model, batch)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; then it is as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
