"""The largest weights of the whole model."""

from __future__ import annotations

import math

from compression.methods.base import METHODS, Plan, Scene
from compression.methods.sparsify.keeping import share
from compression.methods.sparsify.magnitude import Magnitude
from compression.methods.sparsify.model_budget import shared_plan, weights_of
from compression.registry import FloatRange, Values, knob


@METHODS.register("global_magnitude")
class GlobalMagnitude(Magnitude):
    """The largest weights by absolute value over all layers of the rule together.

    ``round((1 - sparsity) N)`` of all N are kept, or the floors of the layers where these are
    more: each keeps at least ``round(floor n_l)`` of its n_l, and one. A layer on its own is
    pruned as by ``magnitude``.

    Stored bytes: as ``magnitude`` for the k values that a layer keeps.

    Source: Gupta et al., Is Complexity Required for Neural Network Pruning?, catalogue 001-153.
    """

    catalogue_id = "001-153"
    floor: float = knob(
        0.02, FloatRange(0.0, 1.0), Values((0.0, 0.02)), help="least share that a layer keeps"
    )

    def plan(self, scene: Scene) -> Plan:
        """See :meth:`Method.plan`."""
        scores = [weight.abs() for weight in weights_of(scene)]
        for sizes in scores:
            sizes[sizes.topk(share(len(sizes), 1 - self.floor), sorted=False).indices] = math.inf
        return shared_plan(self, scene, scores)
