"""Low rank with one threshold on the singular values of all layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Plan, Scene, Shape, Slot, matrix_shape
from compression.methods.low_rank.factors import thin_svd
from compression.methods.low_rank.svd import TruncatedSVD
from compression.methods.none import NoMethod
from compression.methods.sparsify.model_budget import counts
from compression.registry import FloatRange, InvalidSetting, Values, knob
from compression.stats import LayerStats


@METHODS.register("welore")
class WeLore(Method):
    """``svd`` at the ranks that one threshold t on ``sigma_i / sigma_1`` gives all layers together.

    t is such that ``round(reduction N)`` of the N singular values of the rule's layers are below
    it, or as many as leave each layer one; equal values go in the order of the layers. A layer
    whose factors would not be small, ``r (m + n) >= dense_share m n``, stays dense: the published
    rule at 1. Such layers the paper freezes; here an adapter of the rule sits on them as well,
    unless another rule takes them. A weight on its own is all there is, and is always factored.

    What is stored is ``svd`` or ``none``, so nothing can follow in a chain. Stored bytes:
    ``b r (m + n)`` with b bytes a value, or the dense layer's.

    Source: Jaiswal et al., From GaLore to WeLore, arXiv 2407.11239.
    """

    catalogue_id = "001-25"
    reduction: float = knob(
        0.5,
        FloatRange(0.0, 1.0),
        Values((0.3, 0.5, 0.7, 0.8, 0.9)),
        help="share of all singular values that is dropped",
    )
    dense_share: float = knob(
        1.0, FloatRange(0.0, 1.0), help="values of factors over those of W from which it stays W"
    )
    factor_dtype: str = knob(
        "float32", Values(("float32", "float16")), help="storage format of the factors"
    )

    def plan(self, scene: Scene) -> Plan:
        """See :meth:`Method.plan`: svd or none for each layer."""
        weights: dict[str, Tensor] = {n: layer.weight for n, layer in scene.layers.items()}  # type: ignore[misc]
        specs: dict[str, Method] = {}
        notes = []
        for (name, weight), rank in zip(weights.items(), self._ranks(weights), strict=True):
            rows, columns = matrix_shape(tuple(weight.shape))
            specs[name] = self._svd(rank)
            if rank * (rows + columns) >= self.dense_share * rows * columns:
                specs[name] = NoMethod()
                notes.append(f"{self.name}: {name} stays dense, its rank would be {rank}")
        return Plan(specs, notes=tuple(notes))

    def _ranks(self, weights: Mapping[str, Tensor]) -> list[int]:
        scores = [shares(weight.detach()) for weight in weights.values()]
        total = sum(map(len, scores))
        return counts(scores, max(total - round(self.reduction * total), len(scores)))

    def _svd(self, rank: int) -> TruncatedSVD:
        return TruncatedSVD(rank=rank, factor_dtype=self.factor_dtype)

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        return self._svd(self._ranks({"": weight})[0]).encode(weight, stats)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        return self._svd(tensors["left"].shape[1]).decode(tensors, shape)

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """None before compressing.

        Raises:
            InvalidSetting: the rank depends on the values.
        """
        raise InvalidSetting([f"{self.name}: the rank is known after compressing"])

    def nominal_bits(self, shape: Shape) -> int:
        """As :meth:`layout`."""
        return sum(8 * slot.nbytes for slot in self.layout(shape).values())


def shares(weight: Tensor) -> Tensor:
    """``sigma_i / sigma_1`` of ``W.flatten(1)``, descending, on the CPU; the first is infinite.

    It is kept whatever the threshold is.
    """
    matrix = weight.flatten(1).to("cpu", torch.float32)
    s = thin_svd(matrix)[1]
    found = torch.where(s[0] > 0, s / s[0], torch.zeros_like(s))
    found[0] = torch.inf
    return found
