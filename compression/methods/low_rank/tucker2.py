"""Low rank in the channels of a convolution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot
from compression.methods.low_rank.factors import MAX_RANK, energy_rank, thin_svd
from compression.precision import DTYPES, narrow
from compression.registry import FloatRange, IntRange, InvalidSetting, Values, knob
from compression.second_moments import eigenvectors
from compression.stats import LayerStats


@METHODS.register("tucker2")
class Tucker2(Method):
    """A core (p, q, kh, kw) between matrices of its outputs and inputs: ``W = G x_1 U x_2 V``.

    U (out, p) and V (in, q) are orthonormal: first the principal directions of W by outputs and by
    inputs, then alternately the best one for the other (HOOI), each step of which lowers the error.
    ``G = W x_1 U^T x_2 V^T``, so ``||W - W'||^2 = ||W||^2 - ||G||^2``. An energy chooses p and q,
    each as the least that holds this share of ``||W||^2``. Ranks are clamped to what can differ:
    p <= min(out, q k), q <= min(in, p k), k = kh kw. A linear layer is a convolution of k = 1: the
    SVD with an idle core. A convolution's groups have one V.

    Stored bytes: ``b (out p + p q k + q in)`` with in = the inputs of a group and b bytes a value.

    Source: Kim et al., Compression of Deep CNNs for Fast and Low Power Mobile Applications,
    arXiv 1511.06530.
    """

    rank_out: int = knob(0, IntRange(0, MAX_RANK), help="p; 0 = chosen by energy")
    rank_in: int = knob(0, IntRange(0, MAX_RANK), help="q; 0 = chosen by energy")
    energy: float = knob(
        0.9,
        FloatRange(0.0, 1.0),
        Values((0.7, 0.8, 0.9, 0.95)),
        when={"rank_out": (0,), "rank_in": (0,)},
        help="share of the squared norm that outputs keep, and inputs",
    )
    iterations: int = knob(2, IntRange(0, 100), help="of HOOI")
    factor_dtype: str = knob(
        "float32", Values(("float32", "float16")), help="storage format of the factors"
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if bool(self.rank_out) != bool(self.rank_in):
            yield f"{self.name}: give rank_out and rank_in both, or neither"

    def _ranks(self, shape: Shape) -> tuple[int, int]:
        """P and q as far as they can differ."""
        if not self.rank_out:
            raise InvalidSetting([f"{self.name}: ranks by energy are known after compressing"])
        out, into, area = _dims(shape)
        most_out, most_in = min(self.rank_out, out), min(self.rank_in, into)
        return min(most_out, most_in * area), min(most_in, most_out * area)

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        cube = weight.reshape(_dims(tuple(weight.shape)))
        by_input = cube.transpose(0, 1)
        u, squares_out = _directions(cube)
        v, squares_in = _directions(by_input)
        p = self.rank_out or energy_rank(squares_out, self.energy)
        q = self.rank_in or energy_rank(squares_in, self.energy)
        resolved = self.replace(rank_out=p, rank_in=q, energy=type(self).energy)
        p, q = resolved._ranks(tuple(weight.shape))
        resolved = resolved.replace(rank_out=p, rank_in=q)
        u, v = u[:, :p], v[:, :q]
        for _ in range(self.iterations):
            u = _directions(torch.einsum("oik,iq->oqk", cube, v))[0][:, :p]
            v = _directions(torch.einsum("iok,op->ipk", by_input, u))[0][:, :q]
        core = torch.einsum("oik,op,iq->pqk", cube, u, v)
        tensors = {"out": u, "core": core.flatten(1), "into": v.T}
        dtype = DTYPES[self.factor_dtype]
        return resolved, {name: narrow(t, dtype).contiguous() for name, t in tensors.items()}

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        out, core, into = self._parts(tensors, shape, torch.float32)
        return torch.einsum("op,pqk,qi->oik", out, core, into).reshape(shape)

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """See :meth:`Method.rows`: of U."""
        out, core, into = self._parts(tensors, shape, torch.float32)
        found = torch.einsum("op,pqk,qi->oik", out[start:stop], core, into)
        return found.reshape(-1, *shape[1:])

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """Inputs, core, outputs."""
        out, core, into = self._parts(tensors, shape, x.dtype)
        patch = x.reshape(*x.shape[:-1], *_dims(shape)[1:])
        return torch.einsum("...qk,pqk->...p", into @ patch, core) @ out.T

    def _parts(
        self, tensors: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, core, into = (tensors[name].to(dtype) for name in ("out", "core", "into"))
        return out, core.view(*self._ranks(shape), -1), into

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`.

        Raises:
            InvalidSetting: the ranks are still to be chosen by energy.
        """
        return {
            name: Slot(DTYPES[self.factor_dtype], matrix, "base")
            for name, matrix in self.inner(shape).items()
        }

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """U, G as (p, q k), and V^T."""
        (p, q), (out, into, area) = self._ranks(shape), _dims(shape)
        return {"out": (out, p), "core": (p, q * area), "into": (q, into)}

    def nominal_bits(self, shape: Shape) -> int:
        """Every value stored, in the bits of its dtype."""
        return sum(8 * slot.nbytes for slot in self.layout(shape).values())

    def macs(self, shape: Shape) -> int:
        """``out p + p q k + q in``: the three run as convolutions, at stride 1 and in one group.

        A stride runs V^T at more input positions than there are outputs; each group runs it anew.
        """
        return sum(math.prod(matrix) for matrix in self.inner(shape).values())


def _dims(shape: Shape) -> tuple[int, int, int]:
    """(out, in, kh kw)."""
    return shape[0], shape[1], math.prod(shape[2:])


def _directions(cube: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors of a cube's first unfolding, and their squared singular values."""
    matrix = cube.flatten(1)
    if matrix.shape[0] > matrix.shape[1]:
        u, s, _ = thin_svd(matrix)
        return u, s.double().square()
    u, squares = eigenvectors(matrix.double() @ matrix.double().T)
    return u.float(), squares
