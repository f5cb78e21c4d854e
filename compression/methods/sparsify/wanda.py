"""Weights by size times that of their inputs."""

from __future__ import annotations

from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method, Shape
from compression.methods.sparsify.keeping import keep_top
from compression.methods.sparsify.patterned import UNSTRUCTURED, Patterned
from compression.methods.sparsify.sparse_form import Unstructured
from compression.registry import Values, knob
from compression.second_moments import by_group
from compression.stats import InputStats, LayerStats, inputs_of


def importance(grouped: Tensor, inputs: InputStats) -> Tensor:
    """``|w_ij| rms(x_j)`` of a weight (G, m / G, n)."""
    return grouped.abs() * inputs.root_mean_square()[:, None]


@METHODS.register("wanda")
class Wanda(Patterned):
    """The weights of largest ``|w_ij| rms(x_j)`` of each row or layer, or n of every m in a row.

    By row, each keeps ``max(1, round((1 - sparsity) n))`` of its n entries, whatever that is as a
    share; by layer,
    ``round((1 - sparsity) m n)`` of all are kept, the better choice in convolutional networks.
    With inputs of one size it is magnitude pruning.

    Stored bytes: as ``magnitude`` for k values, or as ``n_m``.

    Source: Sun et al., Wanda, arXiv 2306.11695.
    """

    kinds = WITH_INPUTS
    needs = frozenset({"inputs"})
    across: str = knob(
        "row",
        Values(("row", "layer")),
        Values(("row", "layer")),
        when=UNSTRUCTURED,
        help="where weights compete: within a row, or in the whole layer",
    )

    def reached(self, shape: Shape, groups: int) -> int:
        """See :meth:`Unstructured.reached`."""
        if self.across == "layer":
            return Unstructured.reached(self, shape, groups)
        return super().reached(shape, groups)

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        inputs = inputs_of(stats)
        grouped = by_group(weight, len(inputs.mean))
        scores = importance(grouped, inputs)
        if self.across == "layer":
            mask = keep_top(scores.flatten(), self.budget(scores.numel())).view_as(scores)
        else:
            mask = self.keep(scores)
        return self.store(weight.flatten(1), mask.flatten(0, 1))
