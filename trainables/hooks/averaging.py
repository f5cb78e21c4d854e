"""What hooks share that ship a mean of the parameters in the place of their last values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compression.acting import Acting, Moment
from compression.adapters.latent import LatentLayer


class Averaging(Acting):
    """A weighted mean ``sum w p / sum w`` of the parameters, which is what ships.

    What else an adapter has (masks, ranks, a latent weight) ships as it is. Where deltas were
    folded into a latent weight the mean begins anew: those from before are in that weight.
    """

    def __init__(self, model: nn.Module, params: Sequence[nn.Parameter]) -> None:
        self.params = list(params)
        self.latent = [layer for layer in model.modules() if isinstance(layer, LatentLayer)]
        self.sums: list[Tensor] = []
        self.total, self.folds = 0.0, 0

    def counts(self, moment: Moment) -> bool:
        """Whether the parameters after this step are part of the mean."""
        raise NotImplementedError

    def weights(self, moment: Moment) -> tuple[float, float]:
        """By what the sums are multiplied, and by what the parameters, before they are added."""
        raise NotImplementedError

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`."""
        if not self.counts(moment):
            return
        if not self._current():
            self.sums, self.total = [torch.zeros_like(p) for p in self.params], 0.0
            self.folds = self._folds()
        kept, new = self.weights(moment)
        for total, parameter in zip(self.sums, self.params, strict=True):
            total.mul_(kept).add_(parameter, alpha=new)
        self.total = kept * self.total + new

    def mean(self) -> list[Tensor]:
        """The mean of each parameter; nothing where there is none that could ship."""
        return [total / self.total for total in self.sums] if self._current() else []

    def _current(self) -> bool:
        """Whether there is a mean, and of the model as it stands."""
        return bool(self.sums) and self.folds == self._folds()

    def _folds(self) -> int:
        return sum(layer.folds for layer in self.latent)

    @contextmanager
    def shipping(self) -> Iterator[None]:
        """See :meth:`Acting.shipping`: the mean."""
        mean = self.mean()
        before = [parameter.detach().clone() for parameter in self.params] if mean else []
        self._put(mean)
        try:
            yield
        finally:
            self._put(before)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.params, values, strict=False):
            parameter.copy_(value)

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        return {"sums": self.sums, "total": self.total, "folds": self.folds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        # A sum of its own: the state's is of use again, and may be on another device.
        pairs = zip(state["sums"], self.params, strict=False)
        self.sums = [total.to(parameter, copy=True) for total, parameter in pairs]
        self.total, self.folds = state["total"], state["folds"]
