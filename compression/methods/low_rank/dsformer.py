"""A small dense matrix times a sparse one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot, matrix_shape
from compression.methods.low_rank.factors import MAX_RANK, pseudo_inverse, thin_svd
from compression.packing import pack, packed_bytes, unpack
from compression.precision import DTYPES, narrow
from compression.registry import FloatRange, IntRange, Values, knob
from compression.second_moments import pivots
from compression.stats import LayerStats

_RIDGE = 1e-8  # of a Gram matrix that is solved for


@METHODS.register("dsformer")
class DenseSparse(Method):
    """``W ~ D S``: D (m, k) dense, S (k, n) with c nonzeros in a column.

    ``block`` columns have their nonzeros in the same rows, so they share indices. Published, both
    are learned for the task; here they are fitted to W, alternately: rows of S by a gradient step
    and a choice of the c largest, the values there and then D by least squares. The best iterate is
    kept. It starts from W_k, the best of rank k, in a basis of k columns of its own, of which S is
    the identity there. With c = k there is nothing to choose, and D S = W_k.

    The inner dimension k is given, or ``share min(m, n)``; clamped to min(m, n); ``c = keep k``, at
    least one, rounded half to even.

    Stored bytes: ``b (m k + c n) + ceil(ceil(n / block) c ceil(log2(k)) / 8)`` with b bytes a
    value; no indices where c = k.

    Source: Chand et al., DSFormer, arXiv 2312.13211.
    """

    catalogue_id = "001-151"
    rank: int = knob(0, IntRange(0, MAX_RANK), help="inner dimension k; 0 = chosen by share")
    share: float = knob(
        0.5,
        FloatRange(0.0, 1.0),
        Values((0.25, 0.5)),
        when={"rank": (0,)},
        help="k as a share of min(m, n)",
    )
    keep: float = knob(
        0.25, FloatRange(0.0, 1.0), Values((0.1, 0.25)), help="share of nonzeros in S"
    )
    block: int = knob(16, IntRange(1, MAX_RANK), Values((16, 64)), help="columns of shared indices")
    iterations: int = knob(5, IntRange(1, 1000), help="of alternating least squares")
    factor_dtype: str = knob(
        "float32", Values(("float32", "float16")), help="storage format of the values"
    )

    def _sizes(self, shape: Shape) -> tuple[int, int, int, int]:
        """k, c, blocks of columns, bits of an index; 0 of them if c = k."""
        least, columns = min(matrix_shape(shape)), matrix_shape(shape)[1]
        k = min(self.rank or max(int(self.share * least), 1), least)
        c = max(round(self.keep * k), 1)
        return k, c, -(-columns // self.block), (k - 1).bit_length() if c < k else 0

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        matrix, (k, c, blocks, bits) = weight.flatten(1), self._sizes(tuple(weight.shape))
        columns = matrix.shape[1]
        padded = torch.nn.functional.pad(matrix, (0, blocks * self.block - columns))
        dense, values, chosen = _alternate(padded, k, c, self.block, self.iterations)
        dtype = DTYPES[self.factor_dtype]
        tensors = {
            "left": narrow(dense, dtype).contiguous(),
            "values": narrow(values[:, :columns], dtype).contiguous(),
        }
        if bits:
            tensors["indices"] = pack(chosen.flatten(), bits)
        return self.replace(rank=k, share=type(self).share), tensors

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        return (tensors["left"].float() @ self._sparse(tensors, shape)).view(shape)

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """See :meth:`Method.rows`: of D, times S."""
        left = tensors["left"][start:stop].float()
        return (left @ self._sparse(tensors, shape)).view(-1, *shape[1:])

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """``(x S^T) D^T``."""
        return x @ self._sparse(tensors, shape).to(x.dtype).T @ tensors["left"].to(x.dtype).T

    def _sparse(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """S as a dense matrix (k, n)."""
        k, c, blocks, bits = self._sizes(shape)
        values = tensors["values"].float()
        if not bits:
            return values
        chosen = unpack(tensors["indices"], bits, blocks * c).view(blocks, c)
        rows = chosen.T.repeat_interleave(self.block, 1)[:, : values.shape[1]]
        return values.new_zeros(k, values.shape[1]).scatter(0, rows, values)

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        _, c, blocks, bits = self._sizes(shape)
        dtype = DTYPES[self.factor_dtype]
        slots = {name: Slot(dtype, matrix, "base") for name, matrix in self.inner(shape).items()}
        if bits:
            count = packed_bytes(blocks * c, bits)
            slots["indices"] = Slot(torch.uint8, (count,), "indices")
        return slots

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """D, and the nonzeros of S as (c, n)."""
        (rows, columns), (k, c, *_) = matrix_shape(shape), self._sizes(shape)
        return {"left": (rows, k), "values": (c, columns)}

    def nominal_bits(self, shape: Shape) -> int:
        """Every value stored, in the bits of its dtype."""
        return 8 * DTYPES[self.factor_dtype].itemsize * self.macs(shape)

    def macs(self, shape: Shape) -> int:
        """``m k + c n``, where zeros cost nothing."""
        return sum(rows * columns for rows, columns in self.inner(shape).values())


def _alternate(
    matrix: Tensor, k: int, c: int, block: int, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """D (m, k), the nonzeros of S (c, n) and their rows (blocks, c), the best of all iterates."""
    u, s, vh = thin_svd(matrix)
    right = s[:k, None] * vh[:k]
    basis = right[:, pivots(vh[:k].T)]
    dense, sparse = u[:, :k] @ basis, (pseudo_inverse(basis) @ right.double()).float()
    blocks = matrix.shape[1] // block
    nothing = torch.arange(c, device=matrix.device).expand(blocks, c)
    best = torch.zeros_like(dense), matrix.new_zeros(c, matrix.shape[1]), nothing
    least = float(matrix.norm())
    for _ in range(iterations):
        values, chosen = _choose(matrix, dense, sparse, c, block)
        rows = chosen.T.repeat_interleave(block, 1)
        sparse = torch.zeros_like(sparse).scatter(0, rows, values)
        dense = _least_squares(sparse @ sparse.T, sparse @ matrix.T).T
        error = float((matrix - dense @ sparse).norm())
        if error < least:
            best, least = (dense, values, chosen), error
    return best


def _choose(
    matrix: Tensor, dense: Tensor, sparse: Tensor, c: int, block: int
) -> tuple[Tensor, Tensor]:
    """Nonzeros of S for this D, (c, n), and the rows of each block, (blocks, c)."""
    k, blocks = len(sparse), matrix.shape[1] // block
    gram, seen = dense.T @ dense, dense.T @ matrix
    # One step downhill for every row at the pace of its own; then rows as they weigh in D S.
    size = gram.diagonal().clamp(min=torch.finfo(torch.float32).tiny)
    moved = sparse + (seen - gram @ sparse) / (size[:, None] * 2)
    weight = (moved.view(k, blocks, block).square().sum(2) * size[:, None]).T
    chosen = weight.topk(c, dim=1).indices.sort(1).values
    grams = gram[chosen[:, :, None], chosen[:, None, :]]
    wanted = seen.view(k, blocks, block).transpose(0, 1)
    wanted = wanted.gather(1, chosen[:, :, None].expand(-1, -1, block))
    return _least_squares(grams, wanted).transpose(0, 1).flatten(1), chosen


def _least_squares(gram: Tensor, wanted: Tensor) -> Tensor:
    """X of ``gram X = wanted``, one or a batch, with rows and columns of gram scaled to 1."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1).double()
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()[..., None]
    even = gram.double() * scale * scale.mT
    even = even + _RIDGE * torch.eye(gram.shape[-1], dtype=even.dtype, device=even.device)
    solved: Tensor = scale * torch.linalg.solve(even, scale * wanted.double())
    return solved.float()
