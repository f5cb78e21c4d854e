"""Ranks by the importance of triplets of an SVD-like delta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compression.acting import Acting, Moment
from compression.adapters.base import ADAPTERS
from compression.adapters.ranks.allocation import RankEvents, Scheduled, highest
from compression.adapters.ranks.gated import Gated, GatedLayer, gated_layers
from compression.registry import FloatRange, IntRange, Values, knob

_TRIPLET = ("gate", "lora_A", "lora_B")


@ADAPTERS.register("adalora")
class Adalora(Scheduled, Gated):
    """AdaLoRA: ``y = W x + s P diag(l) Q x``; the l of the least important triplets become 0.

    A triplet (P_i, l_i, Q_i) matters by ``S_i = s(l_i) + mean_j s(P_ji) + mean_j s(Q_ij)``, with
    s = I U: I the running mean of |w dw| of an entry, U that of its distance from that mean. At
    event k of K the l of all but ``b_k = b_1 + (b_0 - b_1) (1 - k / K)^3`` triplets of all layers
    are set to 0; they are trained on, and may come back, until the last event. It leaves ``rank``
    a layer on average, of ``start_factor`` times as many at first. ``orthogonality`` weighs
    ``||P^T P - I||^2 + ||Q Q^T - I||^2``. P and Q start with unit columns and rows, at l = 0, where
    the init has no delta for them (the paper: normal of deviation 0.02). What ships is a LoRA with
    l in its B. An l that was set to 0 keeps the optimizer's moments it had. Stored bytes:
    ``b r (m + n)``, r the layer's own rank.

    Source: Zhang et al., AdaLoRA, arXiv 2303.10512.
    """

    trained_gate = True
    roomy = "start_factor"
    start_factor: float = knob(
        1.5, FloatRange(1.0, 8.0), Values((1.5, 2.0)), help="ranks at first over ``rank``"
    )
    events: int = knob(20, IntRange(1, 1000), help="how many times ranks are taken")
    beta1: float = knob(0.85, FloatRange(0.0, 0.999), help="weight of the old mean of |w dw|")
    beta2: float = knob(0.85, FloatRange(0.0, 0.999), help="weight of the old mean deviation")
    orthogonality: float = knob(
        0.1, FloatRange(0.0, 1e3), Values((0.0, 0.1, 0.5)), help="weight of the orthogonal penalty"
    )

    def prepare(self, layer: GatedLayer) -> None:
        """See :meth:`Gated.prepare`: the start's delta with sizes in the gates."""
        b, a = layer.matrices()
        new = (b == 0).all(0) | (a == 0).all(1)
        b[:, new] = torch.randn(len(b), int(new.sum())).to(b)
        a[new] = torch.randn(int(new.sum()), a.shape[1]).to(a)
        sizes = b.norm(dim=0), a.norm(dim=1)
        b /= sizes[0]
        a /= sizes[1][:, None]
        layer.gate.copy_(torch.where(new, 0.0, sizes[0] * sizes[1]))

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        return _Budget(gated_layers(model, layers), seed, self)


class _Budget(RankEvents):
    """Fewer and fewer triplets with l not 0, over all layers."""

    def __init__(self, layers: Mapping[str, GatedLayer], seed: int, own: Adalora) -> None:
        super().__init__(layers, seed, own)
        self.own, self.first = own, sum(layer.most for layer in self.layers.values())
        tensors = {f"{n}.{s}": getattr(one, s) for n, one in self.layers.items() for s in _TRIPLET}
        self.tensors: dict[str, nn.Parameter] = tensors
        self.means = {key: torch.zeros_like(p) for key, p in tensors.items()}
        self.spreads = {key: torch.zeros_like(p) for key, p in tensors.items()}

    @torch.no_grad()
    def after_backward(self, moment: Moment) -> None:
        """See :meth:`Acting.after_backward`: sensitivities go into their means."""
        if self.settled(moment):
            return
        for key, parameter in self.tensors.items():
            if parameter.grad is not None:
                now, mean = (parameter * parameter.grad).abs(), self.means[key]
                mean.lerp_(now, 1 - self.own.beta1)
                self.spreads[key].lerp_((now - mean).abs(), 1 - self.own.beta2)

    def scores(self, name: str) -> Tensor:
        """How much each triplet of a layer matters, (most,)."""
        gate, q, p = (self.means[f"{name}.{s}"] * self.spreads[f"{name}.{s}"] for s in _TRIPLET)
        return gate + q.flatten(1).mean(1) + p.flatten(1).mean(0)

    def event(self, number: int) -> None:
        """See :meth:`Events.event`."""
        left = 1 - (number + 1) / len(self.shares)
        total = self.budget + int((self.first - self.budget) * left**3)
        masks = highest([self.scores(name) for name in self.layers], total)
        for layer, mask in zip(self.layers.values(), masks, strict=True):
            layer.gate.mul_(mask)
            if not left:
                layer.live.copy_(mask)

    def penalty(self) -> Tensor | None:
        """See :meth:`Acting.penalty`."""
        found: list[Tensor] = []
        for layer in self.present().values() if self.own.orthogonality else ():
            b, a = layer.matrices()
            for rows in (b.T[layer.index()], a[layer.index()]):
                found.append((rows @ rows.T - torch.eye(len(rows)).to(rows)).square().sum())
        return self.own.orthogonality * torch.stack(found).sum() if found else None

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        means = {key: mean.clone() for key, mean in self.means.items()}
        spreads = {key: spread.clone() for key, spread in self.spreads.items()}
        return {**super().state(), "means": means, "spreads": spreads}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        super().restore(state)
        for key in self.tensors:
            self.means[key].copy_(state["means"][key])
            self.spreads[key].copy_(state["spreads"][key])
