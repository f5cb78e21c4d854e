"""Ranks that are moved by what leaving them out would do to the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from compression.acting import Acting
from compression.adapters.base import ADAPTERS
from compression.adapters.ranks.allocation import Allocating, Exchanging
from compression.adapters.ranks.gated import GatedLayer, gated_layers
from compression.registry import FloatRange, IntRange, knob


@ADAPTERS.register("alora")
class AllocatingLora(Exchanging):
    """ALoRA: ``y = W x + s B diag(g) A x``; ranks that help least go to layers that lost none.

    The paper scores a rank by the loss without it. Here that is taken to first order, from the
    gradients of each step: leaving rank i out raises the loss by ``-g_i dL/dg_i = -<B_i, dL/dB_i>``
    (its running mean is kept); there is no pass for each rank. At each event the ``swap`` share
    of all ranks with the lowest scores get g = 0, and the layers that lost none get as many, the
    highest mean score first, with B = 0: the output is unchanged by it. The sum of ranks stays
    ``rank`` times the layers: ``rank`` is the mean; a layer has at most ``max_factor * rank``.
    A new rank begins with the optimizer's moments of the one that was there before.
    Not PEFT's activated LoRA. Stored bytes: ``b r (m + n)``, r the layer's own rank.

    Source: Liu et al., ALoRA, arXiv 2403.16187.
    """

    catalogue_id = "001-144"
    factored = True
    min_rank: int = knob(0, IntRange(0, 1024), help="ranks that each layer keeps")
    swap: float = knob(0.1, FloatRange(0.0, 1.0), help="share of ranks that an event moves")
    beta: float = knob(0.9, FloatRange(0.0, 0.999), help="weight of the old mean score")

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        return _Moving(gated_layers(model, layers), seed, self)


class _Moving(Allocating):
    """Ranks go from where they help least to layers that lost none."""

    def __init__(self, layers: Mapping[str, GatedLayer], seed: int, own: AllocatingLora) -> None:
        super().__init__(layers, seed, own, own.beta)
        self.own = own

    def score(self, layer: GatedLayer) -> Tensor:
        """See :meth:`Allocating.score`."""
        return -layer.gate_gradient()

    def event(self, number: int) -> None:
        """See :meth:`Events.event`."""
        before = {name: len(layer.index()) for name, layer in self.layers.items()}
        self.keep(self.budget - round(self.own.swap * self.budget), self.own.min_rank)
        found = self.by_layer()
        lost = {name for name, layer in self.layers.items() if len(layer.index()) < before[name]}
        order = sorted(found, key=lambda name: (name in lost, -found[name]))
        whole = [name for name in order if name not in lost]
        self.grow(whole, self.budget - self.used, gated=False)
        self.grow(order, self.budget - self.used, gated=False)  # where the others have no room
