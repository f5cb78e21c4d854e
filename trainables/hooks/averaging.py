"""What hooks share that ship a mean of the parameters in the place of their last values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compression.acting import Acting, Moment
from compression.adapters.merged.latent import LatentLayer
from trainables.hooks.base import Scene


class Averaging(Acting):
    """A weighted mean ``sum w p / sum w`` of the parameters, which is what ships.

    What else an adapter has (masks, ranks, a latent weight) ships as it is, and so does an entry
    that is 0, as of a gate that is closed. Where parameters begin to mean something else (ranks
    that are replaced, deltas that are folded into a weight) the mean begins anew.
    """

    def __init__(self, scene: Scene) -> None:
        self.params, self.acting = list(scene.params), list(scene.acting)
        modules = scene.model.modules()
        self.latent = [layer for layer in modules if isinstance(layer, LatentLayer)]
        self.sums: list[Tensor] = []
        self.total, self.renewals = 0.0, 0

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
            self.renewals = self._renewed()
        kept, new = self.weights(moment)
        for total, parameter in zip(self.sums, self.params, strict=True):
            total.mul_(kept).add_(parameter, alpha=new)
        self.total = kept * self.total + new

    @torch.no_grad()
    def mean(self) -> list[Tensor]:
        """The mean of each parameter; nothing where there is none that could ship."""
        if not self._current():
            return []
        pairs = zip(self.sums, self.params, strict=True)
        return [torch.where(now == 0, now, total / self.total) for total, now in pairs]

    def _current(self) -> bool:
        """Whether there is a mean, and of the model as it stands."""
        return bool(self.sums) and self.renewals == self._renewed()

    def _renewed(self) -> int:
        folds = sum(layer.folds for layer in self.latent)
        return folds + sum(one.renewals for one in self.acting)

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
        return {"sums": self.sums, "total": self.total, "renewals": self.renewals}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        # A sum of its own: the state's is of use again, and may be on another device.
        pairs = zip(state["sums"], self.params, strict=False)
        self.sums = [total.to(parameter, copy=True) for total, parameter in pairs]
        self.total, self.renewals = state["total"], state["renewals"]
