"""Low rank, nearest in what the layer puts out."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method
from compression.methods.low_rank.factors import Factors, eigenvectors, thin_svd
from compression.registry import FloatRange, Values, knob
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
        u, squares = output_directions(matrix, damped(inputs_of(stats).pooled(), self.damp))
        left = u[:, : self._pick(squares)]
        return self._stored(left, left.T @ matrix)


def damped(moment: Tensor, damp: float) -> Tensor:
    """``H + damp mean(diag(H)) I`` in float64; I if no input was ever anything but zero."""
    scale = moment.double().diagonal().mean()
    identity = torch.eye(len(moment), dtype=torch.float64, device=moment.device)
    return moment.double() + damp * scale * identity if scale > 0 else identity


def output_directions(matrix: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (m, min(m, n)) of ``W H W^T``, largest first, and their eigenvalues.

    Either from the (m, m) matrix or, where there are more outputs than inputs, from a root of H.
    """
    if matrix.shape[0] <= matrix.shape[1]:
        return eigenvectors(matrix @ moment @ matrix.T)
    v, values = eigenvectors(moment)
    u, s, _ = thin_svd(matrix @ v * values.sqrt())
    return u, s.square()
