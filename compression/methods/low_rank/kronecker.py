"""A sum of Kronecker products."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, matrix_shape
from compression.methods.low_rank.factors import Factors, halves, thin_svd
from compression.stats import LayerStats


@METHODS.register("kronecker")
class Kronecker(Factors):
    """``W ~ sum_t A_t (x) B_t``, the nearest sum of r Kronecker products.

    With A (m1, n1), B (m2, n2), m = m1 m2, n = n1 n2, entries of W are put in the order
    (m1 n1, m2 n2), in which a product A (x) B is a matrix of rank one: the best sum of r is a
    truncated SVD, of at most min(m1 n1, m2 n2) terms. m1 is the greatest divisor of m up to
    sqrt(m), n2 that of n up to sqrt(n), so both factors are of about the same size and nothing is
    padded. Prime m and n leave m1 = n2 = 1, which is plain ``svd``.

    Stored bytes: ``b r (m1 n1 + m2 n2)`` with b bytes a value: row-wise A_t as columns of ``left``,
    B_t as rows of ``right``.

    Source: Van Loan and Pitsianis, Approximation with Kronecker Products, 1993.
    """

    catalogue_id = None
    rank_formula = "m n / (m1 n1 + m2 n2)"

    def _folded(self, shape: Shape) -> Shape:
        (m1, n1), (m2, n2) = _factors(shape)
        return m1 * n1, m2 * n2

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        shape = tuple(weight.shape)
        (m1, n1), (m2, n2) = _factors(shape)
        folded = weight.reshape(m1, m2, n1, n2).transpose(1, 2).reshape(self._folded(shape))
        u, s, vh = thin_svd(folded)
        return self._stored(*halves(u, s, vh, self.pick(s.double().square())))

    def _unfold(self, folded: Tensor, shape: Shape) -> Tensor:
        (m1, n1), (m2, n2) = _factors(shape)
        return folded.view(m1, n1, m2, n2).transpose(1, 2).reshape(shape)

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """``sum_t A_t X B_t^T`` with x as a matrix X (n1, n2)."""
        (m1, n1), (m2, n2) = _factors(shape)
        a = tensors["left"].to(x.dtype).T.view(-1, m1, n1)
        b = tensors["right"].to(x.dtype).view(-1, m2, n2)
        y = a @ (x.view(*x.shape[:-1], 1, n1, n2) @ b.mT)
        return y.sum(-3).flatten(-2)

    def macs(self, shape: Shape) -> int:
        """``r n1 m2 (n2 + m1)``: first B_t, then A_t."""
        (m1, n1), (m2, n2) = _factors(shape)
        return self._rank(shape) * n1 * m2 * (n2 + m1)


def _factors(shape: Shape) -> tuple[Shape, Shape]:
    """(m1, n1) and (m2, n2)."""
    rows, columns = matrix_shape(shape)
    m1, n2 = _divisor(rows), _divisor(columns)
    return (m1, columns // n2), (rows // m1, n2)


def _divisor(number: int) -> int:
    """The greatest divisor up to the square root."""
    return next(d for d in range(math.isqrt(number), 0, -1) if number % d == 0)
