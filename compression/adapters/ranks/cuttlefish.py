"""LoRA that is trained wide until its stable ranks settle, then cut to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from compression.acting import Acting
from compression.adapters.base import ADAPTERS
from compression.adapters.ranks.allocation import RankEvents, Scheduled
from compression.adapters.ranks.gated import Gated, GatedLayer, gated_layers
from compression.adapters.ranks.shares import allot
from compression.methods.low_rank.factors import halves, thin_svd
from compression.registry import FloatRange, Values, knob


@ADAPTERS.register("cuttlefish")
class Cuttlefish(Scheduled, Gated):
    """Cuttlefish: train ``start_factor * rank`` ranks, then factors of the rank that settled.

    At each event ``stable_rank = ||D||_F^2 / sigma_1(D)^2`` of each layer's delta ``D = s B A`` is
    taken. Once all moved by less than ``epsilon`` since the event before, or at the last one, each
    layer becomes the factors ``U_r sqrt(S_r), sqrt(S_r) V_r^T`` of the truncated SVD of D, with
    ``r = ceil(rank_scale stable_rank)``, in proportion fewer where the sum is above ``rank`` times
    the layers: ``rank`` is the most that their mean can be. The paper factors the weight that it
    trains; here the weight is compressed and frozen, and what is trained is the delta. The
    optimizer's moments are still those of the wide factors after the switch. Stored bytes:
    ``b r (m + n)``, r the layer's own rank.

    Source: Wang et al., Cuttlefish, arXiv 2305.02538.
    """

    catalogue_id = "001-15"
    factored = True
    roomy = "start_factor"
    start_factor: float = knob(
        2.0, FloatRange(1.0, 64.0), Values((2.0, 4.0)), help="ranks at the start over ``rank``"
    )
    epsilon: float = knob(
        0.1, FloatRange(0.0, 1e3), help="change of a stable rank that has settled"
    )
    rank_scale: float = knob(
        2.0, FloatRange(0.1, 64.0), Values((1.0, 2.0, 4.0)), help="rank over stable rank"
    )

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        return _Watching(gated_layers(model, layers), seed, self)


class _Watching(RankEvents):
    """Stable ranks at each event, and the switch."""

    def __init__(self, layers: Mapping[str, GatedLayer], seed: int, own: Cuttlefish) -> None:
        super().__init__(layers, seed, own)
        self.own = own
        self.last: dict[str, float] = {}

    def event(self, number: int) -> None:
        """See :meth:`Events.event`."""
        found = {name: stable_rank(spectrum(layer)[1]) for name, layer in self.layers.items()}
        moved = [abs(value - self.last.get(name, torch.inf)) for name, value in found.items()]
        self.last = found
        if max(moved, default=0.0) < self.own.epsilon or number + 1 == len(self.shares):
            self.switch(found)
            self.done = len(self.shares) - 1  # no further event

    def switch(self, stable: Mapping[str, float]) -> None:
        """Each layer becomes the truncated SVD of its delta."""
        most = {
            name: min(max(ceil(self.own.rank_scale * stable[name]), 1), layer.most)
            for name, layer in self.layers.items()
        }
        ones = dict.fromkeys(most, 1)
        ranks = allot({n: float(r) for n, r in most.items()}, ones, self.budget, ones, most)
        for name, layer in self.layers.items():
            factor(layer, ranks[name])
        self.renewals += 1

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        return {**super().state(), "last": dict(self.last)}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        super().restore(state)
        self.last = {name: float(value) for name, value in state["last"].items()}


@torch.no_grad()
def spectrum(layer: GatedLayer) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, k), S (k,), V^T (k, n) of the delta, float64, k its room for ranks.

    Through QR of the factors: the delta itself is never made.
    """
    b, a = (matrix.double() for matrix in layer.matrices())
    left, upper = torch.linalg.qr(b * (layer.scale * layer.gate * layer.live))
    right, lower = torch.linalg.qr(a.T)
    u, s, vh = thin_svd(upper @ lower.T)
    return left @ u, s, vh @ right.T


def stable_rank(s: Tensor) -> float:
    """``sum s^2 / s_1^2`` of descending singular values; 0 of none but zeros."""
    return float((s / s[0]).square().sum()) if s[0] > 0 else 0.0


@torch.no_grad()
def factor(layer: GatedLayer, rank: int) -> None:
    """Make the delta its truncated SVD of this rank, both factors with equal singular values."""
    u, s, vh = spectrum(layer)
    left, right = halves(u, s / layer.scale, vh, rank)
    b, a = layer.matrices()
    b.zero_()
    b[:, :rank] = left.to(b)
    a[:rank] = right.to(a)
    layer.gate.fill_(1.0)
    layer.live.copy_(torch.arange(layer.most) < rank)
