"""The adapter reads what rows of the weight read."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, live_rows
from compression.registry import Values, knob
from compression.second_moments import output_directions, pivots
from compression.stats import LayerStats


@INITS.register("pmss")
class PMSS(Init):
    """A = r rows of W, a skeleton of it, and B = 0.

    The paper's delta is ``C U R``, C columns and R rows of W, both frozen, and U (r, r) = 0
    trained. As ``B A`` with both trained that is A = R and B = C U = 0. R is what carries over,
    and that the start is the compressed model itself; C does not, for B = 0 holds nothing of it,
    nor do the r^2 parameters. Rows are chosen by the pivots of an LU of the leading left singular
    vectors (DEIM: rows that the others are combinations of), or by norm. Zero rows become random.

    Source: Wang et al., PMSS, arXiv 2409.16722, catalogue 001-180; DEIM as in CUR decompositions.
    """

    catalogue_id = "001-180"
    guarantee = "frobenius"
    fixes_alpha = False
    selector: str = knob(
        "deim", Values(("deim", "norm")), Values(("deim", "norm")), help="how rows are chosen"
    )

    def start(
        self,
        weight: Tensor,
        compress: Compress,
        rank: int,
        stats: LayerStats | None,
        generator: torch.Generator | None,
    ) -> Start:
        """See :meth:`Init.start`."""
        matrix = weight.flatten(1)
        rows = matrix[self._chosen(matrix, rank)]
        a = live_rows(rows, rows.abs().amax(1) > 0, generator)
        return Start(compress(weight), weight.new_zeros(len(weight), rank), a)

    def _chosen(self, matrix: Tensor, rank: int) -> Tensor:
        """Numbers of ``rank`` different rows."""
        if self.selector == "norm":
            sizes: Tensor = torch.linalg.vector_norm(matrix, dim=1)
            return sizes.argsort(descending=True, stable=True)[:rank]
        even = torch.ones(matrix.shape[1], dtype=torch.float64, device=matrix.device)
        return pivots(output_directions(matrix, even)[0][:, :rank])
