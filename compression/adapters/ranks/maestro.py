"""LoRA trained so that its first ranks are the important ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compression.acting import Acting, Moment
from compression.adapters.base import ADAPTERS
from compression.adapters.ranks.allocation import RankEvents, Scheduled
from compression.adapters.ranks.gated import Gated, GatedLayer, gated_layers
from compression.registry import FloatRange, Values, knob

_TINY = 1e-12


@ADAPTERS.register("maestro")
class Maestro(Scheduled, Gated):
    """Maestro: ``y = W x + s B_{1..b} A_{1..b} x`` with b drawn at each step: ordered dropout.

    So every prefix of ranks is a valid delta, and the last ones can be cut. b is uniform in 1 to
    the layer's live rank: in one layer drawn at each step, the others whole, as published, or in
    each layer. ``group_lasso`` weighs ``sum_b (||B_{b..}||_F + ||A_{b..}||_F)``, which empties the
    last ranks. At each event the longest tail t with ``||B_t A_t||_F <= threshold ||B A||_F`` is
    cut for good; the paper cuts at a tiny absolute norm, which Adam's steps never leave. There is
    no budget: ``rank`` is the most a layer can have. The paper factors the weight, here it is the
    delta. Stored bytes: ``b r (m + n)``, r the prefix that is left.

    Source: Horvath et al., Maestro, arXiv 2308.14929.
    """

    catalogue_id = "001-4"
    factored = True
    at_once: str = knob(
        "one", Values(("one", "all")), help="layers that are cut to a random prefix at a step"
    )
    group_lasso: float = knob(
        1e-4,
        FloatRange(0.0, 1e3),
        search=FloatRange(1e-6, 1e-2, log=True),
        help="weight of the tails' norms",
    )
    threshold: float = knob(
        0.05,
        FloatRange(0.0, 1.0),
        Values((0.01, 0.05, 0.1)),
        help="norm of the tail that is cut over that of the whole",
    )

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        return _OrderedDropout(gated_layers(model, layers), seed, self)


class _OrderedDropout(RankEvents):
    """Random prefixes while training, whole layers between the steps."""

    def __init__(self, layers: Mapping[str, GatedLayer], seed: int, own: Maestro) -> None:
        super().__init__(layers, seed, own)
        self.own = own
        self.cut: dict[str, int] = {}

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.random))

    @torch.no_grad()
    def before_step(self, moment: Moment) -> None:
        """See :meth:`Acting.before_step`."""
        names = list(self.layers)
        drawn = names if self.own.at_once == "all" else [names[self._draw(len(names))]]
        self.cut = {name: len(self.layers[name].index()) for name in drawn}
        for name, rank in self.cut.items():
            if rank:
                leave(self.layers[name], 1 + self._draw(rank))

    def penalty(self) -> Tensor | None:
        """See :meth:`Acting.penalty`: of the tails of all live ranks, cut in this step or not."""
        on = self.present() if self.own.group_lasso else {}
        parts = [
            tail_norms(factor[: self.cut.get(name, len(layer.index()))]).sum()
            for name, layer in on.items()
            for factor in (layer.lora_B.flatten(1).T, layer.lora_A.flatten(1))
        ]
        if not parts:
            return None
        return self.own.group_lasso * torch.stack(parts).sum()

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`."""
        for name, rank in self.cut.items():
            leave(self.layers[name], rank)
        self.cut = {}
        super().after_step(moment)

    def event(self, number: int) -> None:
        """See :meth:`Events.event`."""
        for layer in self.layers.values():
            leave(layer, prefix(layer, self.own.threshold))


@torch.no_grad()
def leave(layer: GatedLayer, rank: int) -> None:
    """The first ``rank`` ranks live, the others dead."""
    layer.live.copy_(torch.arange(layer.most) < rank)


def tail_norms(rows: Tensor) -> Tensor:
    """``||rows[b:]||_F`` for each b, with a floor that keeps its gradient finite at 0."""
    squares = rows.square().sum(1).flip(0).cumsum(0).flip(0)
    return (squares + _TINY).sqrt()


@torch.no_grad()
def prefix(layer: GatedLayer, threshold: float) -> int:
    """The least rank b with ``||B_{b..} A_{b..}||_F <= threshold ||B A||_F``, of the live ones.

    All of them, where the delta is 0: it has not begun to learn.
    """
    rank = len(layer.index())
    b, a = (matrix.detach().double() for matrix in layer.matrices())
    b, a = b[:, :rank], a[:rank]
    # ||B_t A_t||^2 is the sum of the products of two Gram matrices over the tail's block.
    products = (b.T @ b) * (a @ a.T)
    tails = products.flip(0, 1).cumsum(0).cumsum(1).diagonal().clamp(min=0).sqrt().flip(0)
    if not rank or tails[0] == 0:
        return rank
    return int((tails > threshold * tails[0]).sum())
