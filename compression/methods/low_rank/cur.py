"""Low rank by columns and rows of the matrix itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from compression.kinds import EVERY_LAYER, WITH_INPUTS
from compression.methods.base import METHODS, Method, Shape, Slot, matrix_shape
from compression.methods.levels import Nested
from compression.methods.low_rank.factors import Factors, pseudo_inverse, thin_svd
from compression.precision import narrow
from compression.registry import Values, knob
from compression.second_moments import pivots
from compression.stats import LayerStats, inputs_of


@METHODS.register("cur")
class CUR(Factors):
    """``W ~ C U R`` with r columns C and r rows R of W, and ``U = C^+ W R^+``.

    They are picked by ``deim``, the pivots of Gaussian elimination of the first r singular vectors
    of Z, or by ``norm``, the largest columns and rows of Z. Z is W, or with ``weigh=inputs`` W with
    each column times the root mean square of its input (signs are kept: ``|W|`` would not have the
    rank of W). Exact where rank(W) <= r and C and R span it, as those of ``deim`` do. An energy
    chooses r by the singular values of Z. C and R are stored as values, so there are no indices.

    Stored bytes: ``b r (m + n) + 4 r^2`` with b bytes a value of C and R; U is in float32.

    Source: Park et al., CURing Large Models, arXiv 2501.04211.
    """

    catalogue_id = "001-93"
    crops_inner = False
    level_errors = Nested.level_errors
    rank_formula = "sqrt(((m + n) / 2)^2 + m n) - (m + n) / 2"
    kinds: ClassVar[Any] = property(
        lambda self: WITH_INPUTS if self.weigh == "inputs" else EVERY_LAYER
    )
    needs: ClassVar[Any] = property(
        lambda self: frozenset({"inputs"} if self.weigh == "inputs" else ())
    )
    select: str = knob("deim", Values(("deim", "norm")), Values(("deim", "norm")), help="picked by")
    weigh: str = knob(
        "none", Values(("none", "inputs")), Values(("none", "inputs")), help="columns, when picking"
    )

    def _least_useless(self, shape: Shape) -> float:
        """With U: the r of ``r (m + n) + r^2 = m n``."""
        half = sum(matrix_shape(shape)) / 2
        return math.hypot(half, math.sqrt(math.prod(shape))) - half

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        matrix = weight.flatten(1)
        seen = matrix
        if self.weigh == "inputs":
            seen = matrix * inputs_of(stats).pooled().diagonal().clamp(min=0).sqrt()
        u, s, vh = thin_svd(seen)
        rank = self.pick(s.double().square())
        if self.select == "deim":
            rows, columns = pivots(u[:, :rank]), pivots(vh[:rank].T)
        else:
            rows, columns = (seen.norm(dim=dim).topk(rank).indices for dim in (1, 0))
        left = narrow(matrix[:, columns], self._dtype).contiguous()
        right = narrow(matrix[rows], self._dtype).contiguous()
        core = pseudo_inverse(left) @ matrix.double() @ pseudo_inverse(right)
        tensors = {"columns": left, "core": narrow(core, torch.float32), "rows": right}
        return self._of_rank(rank), tensors

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        left, core, right = (tensors[name].float() for name in ("columns", "core", "rows"))
        return (left @ (core @ right)).view(shape)

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """See :meth:`Method.rows`: of the left factor, times the right one."""
        left, core, right = (tensors[name].float() for name in ("columns", "core", "rows"))
        return (left[start:stop] @ (core @ right)).view(-1, *shape[1:])

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """``((x R^T) U^T) C^T``: r (m + n + r) products."""
        left, core, right = (tensors[name].to(x.dtype) for name in ("columns", "core", "rows"))
        return x @ right.T @ core.T @ left.T

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`.

        Raises:
            InvalidSetting: the rank is still to be chosen by energy.
        """
        rank, (rows, columns) = self._rank(shape), matrix_shape(shape)
        return {
            "columns": Slot(self._dtype, (rows, rank), "base"),
            "core": Slot(torch.float32, (rank, rank), "base"),
            "rows": Slot(self._dtype, (rank, columns), "base"),
        }

    def forms(self, shape: Shape) -> Iterable[Method]:
        """None: U is made for all the columns and rows together."""
        return ()

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """C and R; U, which undoes their inverses, does not bear rounding."""
        layout = self.layout(shape)
        return {name: layout[name].shape for name in ("columns", "rows")}

    def macs(self, shape: Shape) -> int:
        """``r (m + n + r)``."""
        rank = self._rank(shape)
        return rank * (sum(matrix_shape(shape)) + rank)
