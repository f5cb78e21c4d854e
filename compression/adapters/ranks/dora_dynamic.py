"""Rank-one parts that are pruned by their share of the delta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compression.acting import Acting
from compression.adapters.base import ADAPTERS
from compression.adapters.ranks.allocation import Allocating, Scheduled
from compression.adapters.ranks.gated import Gated, GatedLayer, gated_layers
from compression.registry import FloatRange, IntRange, Values, knob


@ADAPTERS.register("dora_dynamic")
class DoraDynamic(Scheduled, Gated):
    """Dynamic-rank DoRA: ``y = W x + s sum_i c_i B_i A_i x``, the least of the parts are pruned.

    ``importance_i = ||c_i B_i A_i||_F / ||sum_i c_i B_i A_i||_F``, a running mean with weight
    ``beta``; the sum of all ranks falls with the cube of the time left from ``start_factor * rank``
    a layer to ``rank``, where it is over all layers, not in each: ``rank`` is the mean at the end.
    ``dem_weight`` weighs the variance of the entries of each A_i and B_i, which keeps parts from
    living in few dimensions. c starts at 1 with the init's delta (in the paper at 0). Not the
    weight-decomposed DoRA. Stored bytes: ``b r (m + n)``, r the layer's own rank at the end.

    Source: Mao et al., DoRA: dynamic rank distribution, arXiv 2405.17357.
    """

    catalogue_id = "001-69"
    trained_gate = True
    roomy = "start_factor"
    start_factor: float = knob(
        1.5, FloatRange(1.0, 8.0), Values((1.5, 2.0)), help="ranks at the start over ``rank``"
    )
    min_rank: int = knob(1, IntRange(0, 1024), help="ranks that each layer keeps")
    beta: float = knob(0.9, FloatRange(0.0, 0.999), help="weight of the old mean")
    dem_weight: float = knob(
        0.0, FloatRange(0.0, 1e3), search=FloatRange(1e-3, 1.0, log=True), help="of the variances"
    )

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        return _Pruning(gated_layers(model, layers), seed, self)


class _Pruning(Allocating):
    """The parts with the smallest shares go."""

    def __init__(self, layers: Mapping[str, GatedLayer], seed: int, own: DoraDynamic) -> None:
        super().__init__(layers, seed, own, own.beta)
        self.own = own
        self.room = sum(layer.most for layer in self.layers.values())

    def score(self, layer: GatedLayer) -> Tensor:
        """See :meth:`Allocating.score`."""
        b, a = (matrix.detach().double() for matrix in layer.matrices())
        c = layer.scale * layer.gate.detach() * layer.live
        # <B_i A_i, B_j A_j> is the product of two Gram matrices: the delta itself is never made.
        products = torch.outer(c, c) * (b.T @ b) * (a @ a.T)
        parts, whole = products.diagonal().sqrt(), products.sum().clamp(min=0).sqrt()
        return torch.where(whole > 0, parts / whole, torch.zeros_like(parts)).to(c)

    def event(self, number: int) -> None:
        """See :meth:`Events.event`."""
        left = 1 - (number + 1) / len(self.shares)
        total = self.budget + round((self.room - self.budget) * left**3)
        self.keep(total, self.own.min_rank)

    def penalty(self) -> Tensor | None:
        """See :meth:`Acting.penalty`: the mean over live ranks of the variances, over layers."""
        if not self.own.dem_weight:
            return None
        total = torch.zeros(())
        for layer in self.present().values():
            b, a = layer.matrices()
            index = layer.index()
            if len(index):
                spread = b[:, index].var(0, correction=0) + a[index].var(1, correction=0)
                total = total.to(spread) + spread.mean()
        return self.own.dem_weight * total
