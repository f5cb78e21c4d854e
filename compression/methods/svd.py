"""Low rank by truncated singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot, matrix_shape
from compression.precision import DTYPES, narrow
from compression.registry import FloatRange, IntRange, InvalidSetting, Values, knob
from compression.stats import LayerStats


@METHODS.register("svd")
class TruncatedSVD(Method):
    """The nearest matrix of a given rank, stored as two factors.

    ``W ~ (U_r sqrt(S_r)) (sqrt(S_r) V_r^T)``, with ``||W - W_r||_F^2`` the sum of the squared
    singular values left out (Eckart-Young). The rank is given, clamped to min(m, n), or the least
    that holds a share ``energy`` of ``||W||_F^2``.

    Stored bytes: ``b r (m + n)`` with b bytes a value: more than dense once r >= m n / (m + n).
    """

    catalogue_id = "001-140"
    rank: int = knob(0, IntRange(0, 1 << 16), help="rank; 0 = chosen by energy")
    energy: float = knob(
        0.9,
        FloatRange(0.0, 1.0),
        Values((0.5, 0.7, 0.8, 0.9, 0.95)),
        when={"rank": (0,)},
        help="share of the squared norm that is kept",
    )
    factor_dtype: str = knob(
        "float32", Values(("float32", "float16")), help="storage format of the factors"
    )

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        rank = min(self.rank or _rank_of_energy(s, self.energy), len(s))
        root, dtype = s[:rank].sqrt(), DTYPES[self.factor_dtype]
        tensors = {
            "left": narrow(u[:, :rank] * root, dtype).contiguous(),
            "right": narrow(root[:, None] * vh[:rank], dtype).contiguous(),
        }
        resolved = METHODS.build("svd", {"rank": rank, "factor_dtype": self.factor_dtype})
        return resolved, tensors

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        return (tensors["left"].float() @ tensors["right"].float()).view(shape)

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """``(x R^T) L^T``: r (m + n) products instead of m n."""
        return x @ tensors["right"].to(x.dtype).T @ tensors["left"].to(x.dtype).T

    def _rank(self, shape: Shape) -> int:
        if not self.rank:
            raise InvalidSetting(["svd: the rank that an energy needs is known after compressing"])
        return min(self.rank, *matrix_shape(shape))

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`.

        Raises:
            InvalidSetting: the rank is still to be chosen by energy.
        """
        rows, columns = matrix_shape(shape)
        rank, dtype = self._rank(shape), DTYPES[self.factor_dtype]
        return {
            "left": Slot(dtype, (rows, rank), "base"),
            "right": Slot(dtype, (rank, columns), "base"),
        }

    def nominal_bits(self, shape: Shape) -> int:
        """``r (m + n)`` values in the bits of their dtype."""
        return 8 * DTYPES[self.factor_dtype].itemsize * self.macs(shape)

    def macs(self, shape: Shape) -> int:
        """``r (m + n)``."""
        return self._rank(shape) * sum(matrix_shape(shape))


def _rank_of_energy(s: Tensor, energy: float) -> int:
    """Least r >= 1 with ``sum(s[:r]^2) >= energy * sum(s^2)``."""
    cumulated = s.double().square().cumsum(0)
    short = int((cumulated < energy * cumulated[-1]).sum())
    return min(short + 1, len(s))
