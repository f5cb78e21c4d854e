"""Low rank, nearest in what the layer puts out."""

from __future__ import annotations

from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method
from compression.methods.low_rank.factors import Factors
from compression.registry import FloatRange, Values, knob
from compression.second_moments import damped, output_directions
from compression.stats import LayerStats, inputs_of


@METHODS.register("whitened_svd")
class WhitenedSVD(Factors):
    """The matrix of a given rank whose outputs are nearest on calibration inputs.

    ``W_r = U_r (U_r^T W)`` with U_r the first eigenvectors of ``W H W^T``, where
    ``H = E[x x^T] + damp mean(diag) I``. It minimises ``||(W - W_r) H^(1/2)||_F^2``, which is the
    sum of the squared singular values of ``W H^(1/2)`` left out: the same matrix as
    ``TSVD_r(W H^(1/2)) H^(-1/2)``, without the inverse. Without damping it is ``afm`` with its mean
    free; a large one makes it ``svd``, and guards against directions that calibration did not see.
    Groups of a convolution share the mean of their H, for which alone it is the optimum.

    Stored bytes: ``b r (m + n)`` with b bytes a value.

    Source: Kaushal et al., LORD, arXiv 2309.14021.
    """

    catalogue_id = "001-13"
    kinds = WITH_INPUTS
    needs = frozenset({"inputs"})
    damp: float = knob(
        0.3, FloatRange(0.0, 1e6), Values((0.01, 0.3, 3.0)), help="weight of unseen inputs"
    )

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        matrix = weight.flatten(1).double()
        moment = damped(inputs_of(stats).pooled().double(), self.damp)
        u, squares = output_directions(matrix, moment)
        left = u[:, : self.pick(squares)]
        return self._stored(left, left.T @ matrix)
