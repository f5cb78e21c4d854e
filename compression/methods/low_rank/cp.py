"""A convolution as a sum of rank-one kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, RankLimit, Shape, Slot
from compression.methods.low_rank.factors import MAX_RANK
from compression.precision import DTYPES, narrow
from compression.registry import FloatRange, IntRange, Values, knob
from compression.stats import LayerStats

_MODES = ("out", "into", "high", "wide")
_RIDGE = 1e-7  # of a factor's Gram matrix: keeps components from growing against each other


@METHODS.register("cp")
class CanonicalPolyadic(Method):
    """``W[o, i, y, x] ~ sum_r A[o, r] B[i, r] C[y, r] D[x, r]`` by alternating least squares.

    Each step is the least-squares optimum of one factor. There is no closed form: several random
    starts, always the same ones, run side by side, and the best iterate of all is kept; no worse
    than zeros. The rank is given, or the greatest r >= 1 with
    ``r (out + in + kh + kw) <= share m n``, and clamped to out in kh kw / max(out, in, kh, kw):
    so many terms are enough for any kernel. Grouped convolutions are (out, in / groups, kh, kw).

    Stored bytes: ``b r (out + in + kh + kw)`` with b bytes a value.

    Source: Lebedev et al., Speeding-up CNNs Using Fine-tuned CP-Decomposition, arXiv 1412.6553.
    """

    kinds = frozenset({"conv2d"})
    rank: int = knob(0, IntRange(0, MAX_RANK), help="terms; 0 = chosen by share")
    share: float = knob(
        0.05,
        FloatRange(0.0, 1.0),
        Values((0.01, 0.02, 0.05)),
        when={"rank": (0,)},
        help="values in the factors, as a share of those of W",
    )
    iterations: int = knob(15, IntRange(1, 1000), help="of alternating least squares")
    restarts: int = knob(2, IntRange(1, 16), help="random starts")
    factor_dtype: str = knob(
        "float32", Values(("float32", "float16")), help="storage format of the factors"
    )

    def rank_limit(self, shape: Shape) -> RankLimit | None:
        """See :meth:`Method.rank_limit`."""
        dims = _dims(shape)
        least = math.prod(dims) / sum(dims)
        formula = "m n / (out + in + kh + kw)"
        return RankLimit(self.rank, least, formula) if self.rank else None

    def _rank(self, shape: Shape) -> int:
        dims = _dims(shape)
        by_share = max(int(self.share * math.prod(dims) / sum(dims)), 1)
        return min(self.rank or by_share, math.prod(dims) // max(dims))

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        shape = tuple(weight.shape)
        rank, size = self._rank(shape), weight.norm()
        kernel = (weight / size if size > 0 else weight).reshape(_dims(shape))
        factors = _alternate(kernel, rank, self.restarts, self.iterations)
        factors[0] = factors[0] * size
        # All factors of a term get the same norm: none of them needs a wider range than another.
        norms = torch.stack([factor.norm(dim=0) for factor in factors])
        even = norms.log().mean(0).exp() / norms.clamp(min=torch.finfo(torch.float32).tiny)
        dtype = DTYPES[self.factor_dtype]
        tensors = {
            name: narrow(factor * scale, dtype).contiguous()
            for name, factor, scale in zip(_MODES, factors, even, strict=True)
        }
        return self.replace(rank=rank, share=type(self).share), tensors

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        a, *others = (tensors[name].float() for name in _MODES)
        return (a @ _products(*others).flatten(0, -2).T).view(shape)

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """See :meth:`Method.rows`: of A."""
        a, *others = (tensors[name].float() for name in _MODES)
        return (a[start:stop] @ _products(*others).flatten(0, -2).T).view(-1, *shape[1:])

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """Inputs, columns, rows, outputs."""
        a, b, c, d = (tensors[name].to(x.dtype) for name in _MODES)
        inside = torch.einsum("...iyx,ir->...yxr", x.reshape(*x.shape[:-1], *_dims(shape)[1:]), b)
        return ((inside * d).sum(-2) * c).sum(-2) @ a.T

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        dtype = DTYPES[self.factor_dtype]
        return {name: Slot(dtype, matrix, "base") for name, matrix in self.inner(shape).items()}

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """All four factors."""
        rank = self._rank(shape)
        return {name: (size, rank) for name, size in zip(_MODES, _dims(shape), strict=True)}

    def nominal_bits(self, shape: Shape) -> int:
        """Every value stored, in the bits of its dtype."""
        return sum(8 * slot.nbytes for slot in self.layout(shape).values())

    def macs(self, shape: Shape) -> int:
        """``r (out + in + kh + kw)``: the four run as convolutions, at stride 1 and in one group.

        A stride runs those before the last at more positions; each group runs B anew.
        """
        return self._rank(shape) * sum(_dims(shape))


def _dims(shape: Shape) -> tuple[int, int, int, int]:
    """(out, in, kh, kw), 1 where a matrix has none."""
    out, into, *area = shape
    high, wide = area or (1, 1)
    return out, into, high, wide


def _products(b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """``B[i, r] C[y, r] D[x, r]``, (..., in, kh, kw, r)."""
    return b[..., :, None, None, :] * c[..., None, :, None, :] * d[..., None, None, :, :]


def _alternate(kernel: Tensor, rank: int, restarts: int, iterations: int) -> list[Tensor]:
    """The best of all iterates of a kernel (out, in, kh, kw) of norm 1: four factors."""
    generator = torch.Generator().manual_seed(0)
    sizes = kernel.shape
    starts = (torch.randn(restarts, size, rank, generator=generator) for size in sizes)
    factors = [_unit(start.to(kernel)) for start in starts]
    flat = kernel.flatten(1)
    best, least = [torch.zeros_like(factor[0]) for factor in factors], 1.0
    for _ in range(iterations):
        factors, squares = _sweep(kernel, flat, factors)
        first = int(squares.argmin())
        if squares[first] < least:
            best, least = [factor[first] for factor in factors], float(squares[first])
    return best


def _sweep(kernel: Tensor, flat: Tensor, factors: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Each factor once, all restarts at a time, and the squared errors (restarts,) then."""
    a, b, c, d = factors
    by_out = (a.mT @ flat).view(*a.mT.shape[:2], *kernel.shape[1:])  # (restarts, r, in, kh, kw)
    b = _unit(_solve(torch.einsum("sriyx,syr,sxr->sir", by_out, c, d), a, c, d))
    by_input = torch.einsum("sriyx,sir->syxr", by_out, b)
    c = _unit(_solve((by_input * d[:, None]).sum(2), a, b, d))
    d = _unit(_solve((by_input * c[:, :, None]).sum(1), a, b, c))
    seen = flat @ _products(b, c, d).flatten(1, 3)
    a = _solve(seen, b, c, d)
    inside = (_gram(a) * _gram(b) * _gram(c) * _gram(d)).sum((1, 2))
    return [a, b, c, d], 1 - 2 * (a * seen).sum((1, 2), dtype=torch.float64) + inside


def _solve(seen: Tensor, p: Tensor, q: Tensor, r: Tensor) -> Tensor:
    """The least-squares factor, (restarts, size, r), for what the other three see of the kernel."""
    gram = _gram(p) * _gram(q) * _gram(r)
    ridge = _RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)[:, None, None]
    regular = gram + ridge * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    solved: Tensor = torch.linalg.solve(regular, seen.double(), left=False)
    return solved.float()


def _gram(factor: Tensor) -> Tensor:
    return factor.double().mT @ factor.double()


def _unit(factor: Tensor) -> Tensor:
    return torch.nn.functional.normalize(factor, dim=1)
