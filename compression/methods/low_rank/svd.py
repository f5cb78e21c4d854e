"""Low rank by truncated singular value decomposition."""

from __future__ import annotations

from torch import Tensor

from compression.methods.base import METHODS, Method
from compression.methods.low_rank.factors import Factors, halves, thin_svd
from compression.stats import LayerStats


@METHODS.register("svd")
class TruncatedSVD(Factors):
    """The nearest matrix of a given rank, stored as two factors.

    ``W ~ (U_r sqrt(S_r)) (sqrt(S_r) V_r^T)``, with ``||W - W_r||_F^2`` the sum of the squared
    singular values left out (Eckart-Young). The rank is given, clamped to min(m, n), or the least
    that holds a share ``energy`` of ``||W||_F^2``.

    Stored bytes: ``b r (m + n)`` with b bytes a value: more than dense once r >= m n / (m + n).
    """

    catalogue_id = "001-140"

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        u, s, vh = thin_svd(weight.flatten(1))
        return self._stored(*halves(u, s, vh, self.pick(s.double().square())))
