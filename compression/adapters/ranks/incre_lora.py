"""Ranks that are added where the loss depends most on the delta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from compression.acting import Acting
from compression.adapters.base import ADAPTERS
from compression.adapters.ranks.allocation import Allocating, Scheduled, renew, sensitivity
from compression.adapters.ranks.gated import Gated, GatedLayer, gated_layers
from compression.registry import FloatRange, IntRange, Values, knob


@ADAPTERS.register("incre_lora")
class IncreLora(Scheduled, Gated):
    """IncreLoRA: ``y = W x + s B diag(g) A x`` from ``init_rank``, grown in the neediest layers.

    At each event the layers with the highest mean ``|g dg| + mean |A dA| + mean |B dB|`` get one
    more rank each, until the sum is ``rank`` times the layers at the last event: ``rank`` is the
    mean at the end; a layer has at most ``max_factor * rank``. A new rank has g = 0, so the output
    is unchanged; A and B are random. The paper trains a spare rank in advance; here it is drawn.
    ``orthogonality`` weighs the squared cosines between ranks. It starts at the base: it has not
    the ranks yet to hold an init's delta. Stored bytes: ``b r (m + n)``, r the layer's own rank.

    Source: Zhang et al., IncreLoRA, arXiv 2308.12043.
    """

    catalogue_id = "001-79"
    takes_delta = False
    trained_gate = True
    roomy = "max_factor"
    init_rank: int = knob(1, IntRange(1, 1024), help="ranks of each layer at the start")
    max_factor: float = knob(
        3.0, FloatRange(1.0, 16.0), Values((2.0, 3.0)), help="most ranks of a layer over ``rank``"
    )
    beta: float = knob(0.85, FloatRange(0.0, 0.999), help="weight of the old mean score")
    orthogonality: float = knob(0.1, FloatRange(0.0, 1e3), help="weight of ranks' squared cosines")

    def prepare(self, layer: GatedLayer) -> None:
        """See :meth:`Gated.prepare`."""
        layer.live.zero_()
        for slot in range(min(self.init_rank, layer.asked)):
            renew(layer, slot, None, gated=True)

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        return _Growing(gated_layers(model, layers), seed, self)


class _Growing(Allocating):
    """New ranks for the layers with the highest scores."""

    def __init__(self, layers: Mapping[str, GatedLayer], seed: int, own: IncreLora) -> None:
        super().__init__(layers, seed, own, own.beta, own.orthogonality)
        self.own = own
        self.first = sum(min(own.init_rank, layer.asked) for layer in self.layers.values())

    def score(self, layer: GatedLayer) -> Tensor:
        """See :meth:`Allocating.score`."""
        return sensitivity(layer)

    def event(self, number: int) -> None:
        """See :meth:`Events.event`."""
        share = (number + 1) / len(self.shares)
        total = self.first + int((self.budget - self.first) * share)
        found = self.by_layer()
        order = sorted(found, key=lambda name: -found[name])
        self.grow(order, total - self.used, gated=True)
