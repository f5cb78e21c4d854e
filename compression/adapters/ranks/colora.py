"""LoRA whose ranks follow what fine-tuning would change in each layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compression.adapters.base import ADAPTERS
from compression.adapters.bridge.lora import Lora
from compression.adapters.ranks.shares import Bounded
from compression.registry import naming
from compression.stats import LayerStats, gradients_of, inputs_of


@ADAPTERS.register("colora")
class CoLora(Bounded, Lora):
    """CoLoRA: LoRA with ranks in proportion to each layer's contribution to the task.

    The paper measures how far a layer's features move in fine-tuning. Here, before any training,
    that is taken to first order: a step along the mean gradient G of the loss moves the outputs by
    ``G x``, relative to ``W x``: ``contribution = sqrt(E||G x||^2 / E||W x||^2)``, on calibration
    inputs of the dense model. ``sum r_l (m + n)`` is no more than at ``rank`` on all layers;
    r_l between ``min_factor`` and ``max_factor`` times ``rank``. Stored bytes: ``b r (m + n)``.

    Source: Park et al., CoLoRA, arXiv 2408.01099.
    """

    catalogue_id = "001-53"
    needs = frozenset({"inputs", "gradients"})

    def allocate(
        self, rank: int, weights: Mapping[str, Tensor], stats: Mapping[str, LayerStats]
    ) -> dict[str, int]:
        """See :meth:`Adapter.allocate`."""
        found = {}
        for name, weight in weights.items():
            with naming(name):
                found[name] = contribution(weight, stats.get(name))
        return self.by_importance(rank, weights, found)


def contribution(weight: Tensor, stats: LayerStats | None) -> float:
    """``sqrt(tr(G H G^T) / tr(W H W^T))`` with ``H = E[x x^T]``; 0 where the outputs are 0.

    Raises:
        InvalidSetting: calibration has no inputs or gradients of the layer.
    """
    moment = inputs_of(stats).pooled().double()
    gradient = gradients_of(stats).mean.double()
    changed, whole = (_power(matrix, moment) for matrix in (gradient, weight.flatten(1).double()))
    return float((changed / whole).clamp(min=0).sqrt()) if whole > 0 else 0.0


def _power(matrix: Tensor, moment: Tensor) -> Tensor:
    return torch.einsum("ij,jk,ik->", matrix, moment.to(matrix), matrix)
