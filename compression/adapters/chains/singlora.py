"""Low-rank adaptation with one matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compression.acting import Acting, Moment
from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import (
    Chain,
    Chained,
    ChainedAdapter,
    chained,
    random_matrix,
)
from compression.methods.base import Shape, matrix_shape
from compression.registry import FloatRange, InvalidSetting, knob


@ADAPTERS.register("singlora")
class SingLora(ChainedAdapter):
    """SingLoRA: ``y = W x + (alpha / r) u(t) A[:m] A[:n]^T x`` with A (max(m, n), r) trained.

    ``u(t) = min(t / T, 1)`` with ``T = ramp * steps``: published as a number of steps, here a share
    of the training, so that short ones end it too. u(0) = 0: the start is the base exactly. What
    is stored has u in it: ``A <- sqrt(u) A``, u <- 1. Stored bytes: ``b r max(m, n)``.

    Source: Bensaid et al., SingLoRA, arXiv 2507.05566.
    """

    catalogue_id = "001-19"
    trained = frozenset({"A"})
    ramp: float = knob(
        0.1, FloatRange(1e-6, 1.0), FloatRange(0.02, 0.5, log=True), help="T, of all steps"
    )

    @property
    def settled_at(self) -> float:
        """See :meth:`Adapter.settled_at`: at the end of the ramp."""
        return self.ramp

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        return {"A": (max(matrix_shape(shape)), rank)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        return {
            "A": random_matrix(start.rank, max(matrix_shape(weight.shape))).T,
            "u": torch.zeros(()),
        }

    def again(
        self, name: str, shape: Shape, rank: int, stored: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.again`."""
        return {**stored, "u": torch.ones(())}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        a, u = layer.own()["A"], layer.own()["u"]
        rows, columns = matrix_shape(tuple(layer.weight.shape))
        return [Chain(layer.scale * u, (a[:columns].T, a[:rows]))]

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``."""
        return rank * sum(matrix_shape(shape))

    @torch.no_grad()
    def settle(self, model: nn.Module, layers: Mapping[str, tuple[Shape, int]]) -> None:
        """See :meth:`Adapter.settle`: u goes into A."""
        for name in layers:
            own = chained(model, name).own()
            own["A"].mul_(own["u"].sqrt())
            own["u"].fill_(1)
        super().settle(model, layers)

    def stored(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.stored`.

        Raises:
            InvalidSetting: the model is not settled: u is not in A yet.
        """
        names = list(layers)
        if open_ := [n for n in names if float(chained(model, n).own()["u"]) != 1]:
            raise InvalidSetting([f"{n}: round the model with compression.finalize" for n in open_])
        return super().stored(model, names)

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`: u follows the step."""
        return _Ramp([chained(model, name) for name in layers], self.ramp)


class _Ramp(Acting):
    def __init__(self, layers: list[Chained], ramp: float) -> None:
        self.layers, self.ramp = layers, ramp

    def before_step(self, moment: Moment) -> None:
        """See :meth:`Acting.before_step`."""
        self._set(moment.progress)

    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`: what would ship now has one more step in it."""
        self._set((moment.step + 1) / moment.steps)

    def settled(self, moment: Moment) -> bool:
        """See :meth:`Acting.settled`."""
        return moment.progress >= self.ramp

    def _set(self, progress: float) -> None:
        for layer in self.layers:
            layer.own()["u"].fill_(min(progress / self.ramp, 1.0))
