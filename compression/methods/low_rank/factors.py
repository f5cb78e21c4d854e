"""What low-rank methods share: two factors, how they are stored, and where the rank ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from compression.methods.base import Method, RankLimit, Shape, Slot, matrix_shape
from compression.methods.levels import Nested
from compression.precision import DTYPES, narrow
from compression.registry import FloatRange, IntRange, InvalidSetting, Values, knob

MAX_RANK = 1 << 16


@dataclass(frozen=True)
class Factors(Nested):
    """``W ~ L R`` with L (m, r) and R (r, n), the rank given or chosen by energy.

    Stored bytes: ``b r (m + n)`` with b bytes a value.
    """

    rank_formula: ClassVar[str] = "m n / (m + n)"
    """Of the least rank whose factors have as many values as W."""
    crops_inner = True
    rank: int = knob(0, IntRange(0, MAX_RANK), help="rank; 0 = chosen by energy")
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

    @property
    def _dtype(self) -> torch.dtype:
        return DTYPES[self.factor_dtype]

    def _of_rank(self, rank: int) -> Self:
        """Itself resolved: an energy is read no longer."""
        return self.replace(rank=rank, energy=type(self).energy)  # type: ignore[no-any-return]

    def pick(self, squares: Tensor) -> int:
        """The rank to keep, of what each direction holds, in descending order."""
        return min(self.rank or energy_rank(squares, self.energy), len(squares))

    def _stored(self, left: Tensor, right: Tensor) -> tuple[Self, dict[str, Tensor]]:
        """What ``encode`` gives for L and R, their common dimension the last but one of R."""
        tensors = {"left": left, "right": right}
        packed = {name: narrow(t.float(), self._dtype).contiguous() for name, t in tensors.items()}
        return self._of_rank(right.shape[-2]), packed

    def rank_limit(self, shape: Shape) -> RankLimit | None:
        """See :meth:`Method.rank_limit`."""
        if not self.rank:
            return None
        return RankLimit(self.rank, self._least_useless(shape), self.rank_formula)

    def _least_useless(self, shape: Shape) -> float:
        """The (real) rank at which the factors of all tiles have as many values as W."""
        *tiles, rows, columns = self._folded(shape)
        return math.prod(shape) / (math.prod(tiles) * (rows + columns))

    def _folded(self, shape: Shape) -> Shape:
        """Shape of the matrix, or (tiles, rows, columns) of matrices, that L R stands for."""
        return matrix_shape(shape)

    def _unfold(self, folded: Tensor, shape: Shape) -> Tensor:
        """The weight that L R stands for."""
        return folded.view(shape)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        return self._unfold(tensors["left"].float() @ tensors["right"].float(), shape)

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """See :meth:`Method.rows`: of the left factor, times the right one."""
        if len(self._folded(shape)) != 2 or type(self)._unfold is not Factors._unfold:
            return super().rows(tensors, shape, start, stop)
        left, right = tensors["left"][start:stop].float(), tensors["right"].float()
        return (left @ right).view(-1, *shape[1:])

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """``(x R^T) L^T``: r (m + n) products instead of m n."""
        return x @ tensors["right"].to(x.dtype).T @ tensors["left"].to(x.dtype).T

    def _rank(self, shape: Shape) -> int:
        if not self.rank:
            raise InvalidSetting(
                [f"{self.name}: the rank that an energy needs is known after compressing"]
            )
        return min(self.rank, *self._folded(shape)[-2:])

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`.

        Raises:
            InvalidSetting: the rank is still to be chosen by energy.
        """
        *tiles, rows, columns = self._folded(shape)
        rank = self._rank(shape)
        return {
            "left": Slot(self._dtype, (*tiles, rows, rank), "base"),
            "right": Slot(self._dtype, (*tiles, rank, columns), "base"),
        }

    def forms(self, shape: Shape) -> Iterable[Method]:
        """See :meth:`Nested.forms`: all lower ranks, as directions go by what they hold."""
        return [self._of_rank(rank) for rank in range(self._rank(shape) - 1, 0, -1)]

    def at_level(
        self, tensors: Mapping[str, Tensor], shape: Shape, level: Method
    ) -> dict[str, Tensor]:
        """See :meth:`Nested.at_level`: the first columns of L and rows of R."""
        rank = _rank_of(level, shape)
        left, right = tensors["left"][..., :rank], tensors["right"][..., :rank, :]
        return {"left": left.contiguous(), "right": right.contiguous()}

    def level_errors(
        self, tensors: Mapping[str, Tensor], shape: Shape, levels: Sequence[Method]
    ) -> list[float]:
        """See :meth:`Nested.level_errors`, from the Gram matrices of L and R.

        ``||sum_{i > k} l_i r_i||_F^2 = sum_{i, j > k} (L^T L)_ij (R R^T)_ij``.
        """
        left, right = tensors["left"].double(), tensors["right"].double()
        products = (left.mT @ left) * (right @ right.mT)
        products = products.reshape(-1, *products.shape[-2:]).sum(0)
        beyond = products.flip(0, 1).cumsum(0).cumsum(1).diagonal()
        missing = (len(beyond) - _rank_of(level, shape) for level in levels)
        return [max(float(beyond[count - 1]), 0.0) for count in missing]

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """Both factors; those of tiles one below the other."""
        slots = {name: slot.shape for name, slot in self.layout(shape).items()}
        return {name: (math.prod(dims[:-1]), dims[-1]) for name, dims in slots.items()}

    def nominal_bits(self, shape: Shape) -> int:
        """Every value stored, in the bits of its dtype."""
        return sum(8 * slot.nbytes for slot in self.layout(shape).values())

    def macs(self, shape: Shape) -> int:
        """``r (m + n)``; a grouped convolution runs R once more for each further group."""
        return self._rank(shape) * sum(matrix_shape(shape))


def _rank_of(level: Method, shape: Shape) -> int:
    return level.layout(shape)["right"].shape[-2]


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V^T of a matrix or a batch of them, through QR of the longer side.

    As exact as the SVD itself, since Q is orthogonal, and many times faster for a wide matrix.
    """
    rows, columns = matrix.shape[-2:]
    if rows == columns:
        return tuple(torch.linalg.svd(matrix, full_matrices=False))
    if rows < columns:
        v, s, uh = thin_svd(matrix.mT)
        return uh.mT, s, v.mT
    q, r = torch.linalg.qr(matrix)
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    return q @ u, s, vh


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """L and R of the nearest matrix of this rank, which share the singular values evenly."""
    u, s, vh = thin_svd(matrix)
    return halves(u, s, vh, rank)


def halves(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``U_r sqrt(S_r)`` and ``sqrt(S_r) V_r^T``."""
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root[..., None, :], root[..., None] * vh[..., :rank, :]


def energy_rank(squares: Tensor, energy: float) -> int:
    """Least r >= 1 with ``sum(squares[:r]) >= energy * sum(squares)``."""
    cumulated = squares.double().cumsum(0)
    short = int((cumulated < energy * cumulated[-1]).sum())
    return min(short + 1, len(squares))


def pseudo_inverse(matrix: Tensor) -> Tensor:
    """Moore-Penrose, float64; directions below the rounding of float32 count as none."""
    u, s, vh = thin_svd(matrix.double())
    least = s.amax(-1, keepdim=True) * max(matrix.shape[-2:]) * torch.finfo(torch.float32).eps
    inverse = torch.where(s > least, 1 / s, 0.0)
    return vh.mT @ (inverse[..., None] * u.mT)
