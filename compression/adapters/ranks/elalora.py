"""Ranks that are pruned where they matter least and added where they matter most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from compression.acting import Acting
from compression.adapters.base import ADAPTERS
from compression.adapters.ranks.allocation import Allocating, Exchanging, sensitivity
from compression.adapters.ranks.gated import GatedLayer, gated_layers
from compression.registry import FloatRange, IntRange, knob


@ADAPTERS.register("elalora")
class ElaLora(Exchanging):
    """ElaLoRA: ``y = W x + s P diag(g) Q x``; at each event as many ranks are pruned as are added.

    Pruned are those of the lowest mean ``|g dg| + mean |P dP| + mean |Q dQ|`` over all layers; the
    layers whose ranks score highest on average get one each in turn, with g = 0: the output is
    unchanged by it. The sum of ranks stays ``rank`` times the layers: ``rank`` is the mean; a layer
    has at least ``min_rank`` and at most ``max_factor * rank``. ``swap`` is the share of ranks that
    the first event exchanges; the later ones fewer, in proportion to the events left.
    ``orthogonality`` weighs the squared cosines between ranks, where the paper has
    ``||P^T P - I||^2``: an init's delta need not have unit columns. A new rank begins with the
    optimizer's moments of the one that was there before. Stored bytes: ``b r (m + n)``, r the
    layer's own rank.

    Source: Chang et al., ElaLoRA, arXiv 2504.00254.
    """

    catalogue_id = "001-9"
    trained_gate = True
    min_rank: int = knob(1, IntRange(0, 1024), help="ranks that each layer keeps")
    swap: float = knob(0.2, FloatRange(0.0, 1.0), help="share of ranks in the first exchange")
    beta: float = knob(0.85, FloatRange(0.0, 0.999), help="weight of the old mean score")
    orthogonality: float = knob(0.1, FloatRange(0.0, 1e3), help="weight of ranks' squared cosines")

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        return _Swapping(gated_layers(model, layers), seed, self)


class _Swapping(Allocating):
    """The weakest ranks go, the strongest layers get new ones."""

    def __init__(self, layers: Mapping[str, GatedLayer], seed: int, own: ElaLora) -> None:
        super().__init__(layers, seed, own, own.beta, own.orthogonality)
        self.own = own

    def score(self, layer: GatedLayer) -> Tensor:
        """See :meth:`Allocating.score`."""
        return sensitivity(layer)

    def event(self, number: int) -> None:
        """See :meth:`Events.event`."""
        left = 1 - number / len(self.shares)
        exchanged = round(self.own.swap * left * self.budget)
        self.keep(self.budget - exchanged, self.own.min_rank)
        found = self.by_layer()
        order = sorted(found, key=lambda name: -found[name])
        self.grow(order, self.budget - self.used, gated=True)
