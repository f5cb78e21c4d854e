"""Ranks by an l1 weight on gates between A and B."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from compression.acting import Acting, Moment
from compression.adapters.base import ADAPTERS
from compression.adapters.ranks.gated import Gated, GatedLayer, gated_layers
from compression.registry import FloatRange, knob


@ADAPTERS.register("sora")
class Sora(Gated):
    """SoRA: ``y = W x + s B diag(g) A x``; after each step g shrinks towards 0 by ``lr * l1``.

    ``g <- sign(g) max(|g| - lr l1, 0)`` after the optimizer's step; ranks with g = 0 are left out
    of the file. Until then they are trained, and may come back, as in the paper. There is no
    budget: ``rank`` times ``start_factor`` is the most a layer can end with, l1 decides. Gates
    start at 1 (in the paper's code at random), so the start is the init's delta. Stored bytes:
    ``b r (m + n)``, r the gates of the layer that are not 0.

    Source: Ding et al., SoRA, arXiv 2311.11696.
    """

    catalogue_id = "001-54"
    trained_gate = True
    roomy = "start_factor"
    start_factor: float = knob(
        1.0, FloatRange(1.0, 8.0), help="ranks at the start over the rank asked for"
    )
    l1: float = knob(
        1.0,
        FloatRange(0.0, 1e3),
        search=FloatRange(0.03, 30.0, log=True),
        help="weight of the gates' l1 norm: at 1 a gate without gradient is 0 after 1 / lr steps",
    )

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        return _Proximal(list(gated_layers(model, layers).values()), self.l1)


class _Proximal(Acting):
    """The l1 step on gates. Any may reach 0, or leave it, at any step: files are what they are."""

    resizes = True
    rewires = True  # each report looks at the mask anew: nothing that is compiled would last

    def __init__(self, layers: list[GatedLayer], l1: float) -> None:
        self.layers, self.l1 = layers, l1

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`."""
        for layer in self.layers:
            layer.gate.copy_(nn.functional.softshrink(layer.gate, moment.lr * self.l1))
