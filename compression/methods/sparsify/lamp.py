"""The largest weights of the whole model, on a scale that fits every layer."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from compression.methods.base import METHODS, Plan, Scene
from compression.methods.sparsify.magnitude import Magnitude
from compression.methods.sparsify.model_budget import shared_plan, weights_of


def lamp_scores(weight: Tensor) -> Tensor:
    """``w_u^2 / sum of w_v^2 over |w_v| >= |w_u|`` of a vector, largest weight first.

    Equal weights stand one after another, as their order is.
    """
    # numpy sorts values without their indices, many times faster than torch both.
    squares = torch.from_numpy(np.sort(weight.abs().numpy())).flip(0).double().square()
    scores = squares / squares.cumsum(0)
    return scores.nan_to_num(nan=0.0).float()


@METHODS.register("lamp")
class LAMP(Magnitude):
    """The weights of highest layer-adaptive score over all layers of the rule together.

    The score of a weight is ``w_u^2`` over the sum of ``w_v^2`` of the weights in its layer that
    are no smaller. The largest weight of any layer scores 1, so none is emptied. In total
    ``round((1 - sparsity) N)`` of N are kept, or one a layer. A layer on its own is pruned as by
    ``magnitude``.

    Stored bytes: as ``magnitude`` for the k values that a layer keeps.

    Source: Lee et al., LAMP, arXiv 2010.07611, catalogue 001-11.
    """

    catalogue_id = "001-11"

    def plan(self, scene: Scene) -> Plan:
        """See :meth:`Method.plan`."""
        scores = [lamp_scores(weight) for weight in weights_of(scene)]
        for ranked in scores:
            ranked[:1] = math.inf  # what is kept of a layer of zeros, too
        return shared_plan(self, scene, scores)
