"""Low-rank adaptation that learns which layers need it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from compression.acting import Acting, Moment
from compression.adapters.base import ADAPTERS, AdapterStart, Shipped
from compression.adapters.chains.chained import (
    Chain,
    Chained,
    ShipsLora,
    chained,
    random_matrix,
    through,
)
from compression.methods.base import matrix_shape
from compression.registry import FloatRange, knob


@ADAPTERS.register("selective_lora")
class SelectiveLora(ShipsLora):
    """SelectiveLoRA: ``y = W x + 1[s >= tau] (alpha / r) B A x``, an indicator s for each layer.

    A, B and s (1,) are trained, s under the penalty ``lambda sum |s|``; the step function passes
    its gradient on as it is, so that a layer that is off can come back. s starts at 2 tau (our
    choice), and stays as it is after ``decided`` of the training (ours too), so that sizes settle.
    A layer that is on is stored as a ``lora``, one that is off as its base alone. Stored bytes:
    ``b r (m + n)`` a layer that is on, else 0.

    Source: Selective Low Rank Adaptation, arXiv 2501.15377, after TAPS, arXiv 2203.16708.
    """

    catalogue_id = "001-177"
    takes_delta = False  # a part of the start would be lost with a layer that is off
    trained = frozenset({"lora_A", "lora_B", "indicator"})
    penalty: float = knob(
        0.01, FloatRange(0.0, 100.0), FloatRange(1e-4, 1.0, log=True), help="lambda"
    )
    tau: float = knob(0.1, FloatRange(1e-6, 1e6), help="a layer is on where s is at least this")
    decided: float = knob(0.5, FloatRange(0.0, 1.0), help="share of the training that moves s")

    @property
    def settled_at(self) -> float:
        """See :meth:`Adapter.settled_at`: once it is decided which layers stay."""
        return self.decided

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        rows, columns = matrix_shape(weight.shape)
        a, b = random_matrix(start.rank, columns), weight.new_zeros(rows, start.rank)
        return {"lora_A": a, "lora_B": b, "indicator": torch.full((1,), 2 * self.tau)}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`: the delta of a layer that is on."""
        own = layer.own()
        return [Chain(layer.scale, (own["lora_A"], own["lora_B"]))]

    def output(self, layer: Chained, x: Tensor) -> Tensor:
        """See :meth:`ChainedAdapter.output`."""
        base: Tensor = layer.base_layer(x)
        if not torch.is_grad_enabled() and not self.is_on(layer):
            return base
        s = layer.own()["indicator"]
        # Exactly 0 or 1, with the gradient of s.
        gate = (s >= self.tau).to(s.dtype) + (s - s.detach())
        [(scale, matrices)] = self.chains(layer)
        return (base + through(layer.base_layer, matrices, x) * scale * gate).to(base.dtype)

    def is_on(self, layer: Chained) -> bool:
        """Whether the layer has its delta."""
        return bool(layer.own()["indicator"] >= self.tau)

    def shipped(self, model: nn.Module, layer: str, own: Shipped) -> Shipped:
        """See :meth:`Adapter.shipped`: nothing of a layer that is off."""
        if not self.is_on(chained(model, layer)):
            return replace(own, adapter=None, rank=0, alpha=0.0)
        return super().shipped(model, layer, own)

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`: the penalty, until it is decided which layers stay."""
        return _Selecting([chained(model, name) for name in layers], self)


class _Selecting(Acting):
    resizes = True

    def __init__(self, layers: list[Chained], adapter: SelectiveLora) -> None:
        self.layers, self.adapter, self.over = layers, adapter, False

    def before_step(self, moment: Moment) -> None:
        """See :meth:`Acting.before_step`."""
        self.over = moment.progress >= self.adapter.decided

    def penalty(self) -> Tensor | None:
        """See :meth:`Acting.penalty`."""
        if self.over:
            return None
        sizes = torch.stack([layer.own()["indicator"].abs().sum() for layer in self.layers])
        return self.adapter.penalty * sizes.sum()

    def after_backward(self, moment: Moment) -> None:
        """See :meth:`Acting.after_backward`: without a gradient no optimizer moves s."""
        for layer in self.layers if self.over else ():
            layer.own()["indicator"].grad = None

    def settled(self, moment: Moment) -> bool:
        """See :meth:`Acting.settled`."""
        return moment.progress >= self.adapter.decided
