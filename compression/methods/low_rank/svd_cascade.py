"""Low rank by several pairs of factors, each of what is still missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

import torch
from torch import Tensor

from compression.methods.base import (
    METHODS,
    Method,
    Plan,
    RankLimit,
    Scene,
    Shape,
    Slot,
    matrix_shape,
)
from compression.methods.levels import Croppable, Nested
from compression.methods.low_rank.factors import MAX_RANK, pseudo_inverse, truncated
from compression.registry import FloatRange, IntRange, Values, knob
from compression.stats import LayerStats

QUANTISED = (2, 3, 4, 8)


@METHODS.register("svd_cascade")
class SVDCascade(Nested):
    """``pairs`` pairs of factors of rank r, each of what those before it leave.

    ``W_i = W_{i-1} + Q(TSVD_r(W - W_{i-1}))``. Quantised by ``rtn``, a pair also makes up for the
    rounding of the pairs before it: the right factor is fitted to the rounded left one, and a pair
    that would not lower the error is stored as zeros, so the error never grows. In float32 k pairs
    of rank r are one SVD of rank k r (Eckart-Young), and what they are split into changes nothing:
    a note says so.

    The rank of a pair is given, or follows from ``share``: the greatest r >= 1 with
    ``k r (m + n) <= share m n``. With ``scope=model``, as published, it is one for all layers of
    the rule, the greatest with ``k r sum(m + n) <= share sum(m n)``; a weight that is compressed
    outside a plan is all there is, so either scope gives it the same. The rank is clamped to
    min(m, n) of each layer, in floats that of all pairs together. At a share of 1 and more,
    k r >= m n / (m + n), factors have no fewer values than W. Published ranks are multiples of 34
    for each 10%, such as 272 at 80% where the formula gives 273: 34 is its floor at 10% for
    the encoder blocks (width 512, 2048 inside) that they fit.

    Stored bytes: those of the two factors, K x m and K x n with K = k r, under float32, float16 or
    ``rtn`` with rows as scale groups, or ``group_size`` entries of them: ``K (m + n) bits / 8`` in
    floats, ``ceil(bits K m / 8) + ceil(bits K n / 8) + 2 K (g_m + g_n)`` quantised, with
    ``g_n = ceil(n / group_size)``, 1 for 0.

    Source: catalogue 003.
    """

    catalogue_id = "003"
    crops_inner = True
    pairs: int = knob(2, IntRange(1, 9), Values((1, 2, 4)), help="pairs of factors")
    rank: int = knob(0, IntRange(0, MAX_RANK), help="of each pair; 0 = chosen by share")
    share: float = knob(
        0.3,
        FloatRange(0.0, 4.0),
        Values((0.1, 0.3, 0.5, 0.8)),
        when={"rank": (0,)},
        help="values in all factors, as a share of those of W",
    )
    scope: str = knob(
        "layer",
        Values(("layer", "model")),
        when={"rank": (0,)},
        help="whose values the share counts: each layer has its rank, or all have one",
    )
    factor_bits: int = knob(
        4, Values((*QUANTISED, 16, 32)), Values((3, 4, 8)), help="bits of a factor's value"
    )
    group_size: int = knob(
        0,
        IntRange(0, MAX_RANK),
        Values((0, 64)),
        when={"factor_bits": QUANTISED},
        help="entries of a factor's row that share a scale; 0 = all",
    )

    @property
    def _storage(self) -> Method:
        """How a factor of K rows is stored."""
        if self.factor_bits == 32:
            return METHODS.build("none")
        if self.factor_bits == 16:
            return METHODS.build("cast", {"dtype": "float16"})
        return METHODS.build("rtn", {"bits": self.factor_bits, "group_size": self.group_size})

    def plan(self, scene: Scene) -> Plan:
        """Each layer with its rank; notes say where a knob changes nothing or saves nothing."""
        shapes = {name: tuple(layer.weight.shape) for name, layer in scene.layers.items()}  # type: ignore[arg-type]
        common = self._by_share(shapes.values()) if self.scope == "model" and shapes else 0
        specs = {
            name: self._of_rank(min(common or self._pair(shape), *matrix_shape(shape)))
            for name, shape in shapes.items()
        }
        return Plan(specs, notes=tuple(self._notes(specs, shapes)))

    def _notes(self, specs: Mapping[str, SVDCascade], shapes: Mapping[str, Shape]) -> Iterator[str]:
        if self.factor_bits == 32 and self.pairs > 1:
            yield (
                f"{self.name}: pairs has no effect in float32 but on the rank in all, as k pairs "
                "of rank r are one SVD of rank k r"
            )
        if not self.rank and self.share >= 1:
            yield f"{self.name}: a share of {self.share:g} is no fewer values than the dense layers"
        # In floats the layer's own notes say it, by its rank limit.
        for name, shape in shapes.items() if self.factor_bits in QUANTISED else ():
            rows, columns = matrix_shape(shape)
            total = specs[name]._total(shape)
            if total * (rows + columns) >= rows * columns:
                yield f"{self.name}: {name} has no fewer values at rank {total} in all"

    def rank_limit(self, shape: Shape) -> RankLimit | None:
        """Of all pairs together, in floats; quantised pairs also make up for each other."""
        if not self.rank or self.factor_bits in QUANTISED:
            return None
        rows, columns = matrix_shape(shape)
        formula = "m n / (m + n) of all pairs together"
        return RankLimit(self.pairs * self.rank, rows * columns / (rows + columns), formula)

    def _of_rank(self, rank: int) -> SVDCascade:
        """Itself resolved: neither share nor scope is read any longer."""
        kind = type(self)
        return self.replace(rank=rank, share=kind.share, scope=kind.scope)  # type: ignore[no-any-return]

    def _by_share(self, shapes: Iterable[Shape]) -> int:
        """Greatest r >= 1 with ``k r sum(m + n) <= share sum(m n)``."""
        sizes = [matrix_shape(shape) for shape in shapes]
        values = sum(rows * columns for rows, columns in sizes)
        each = self.pairs * sum(rows + columns for rows, columns in sizes)
        # The decimal that was written: 0.29 of 100 is 29, not 28.999...
        return max(int(Fraction(str(self.share)) * values / each), 1)

    def _pair(self, shape: Shape) -> int:
        return min(self.rank or self._by_share([shape]), *matrix_shape(shape))

    def _total(self, shape: Shape) -> int:
        total = self.pairs * self._pair(shape)
        return total if self.factor_bits in QUANTISED else min(total, *matrix_shape(shape))

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        shape = tuple(weight.shape)
        rank, total = self._pair(shape), self._total(shape)
        missing, lefts, rights = weight.flatten(1), list[Tensor](), list[Tensor]()
        for start in range(0, total, rank):
            left, right, missing = self._next(missing, min(rank, total - start))
            lefts.append(left)
            rights.append(right)
        # Rows are rounded on their own, so packed together they are what they were alone.
        packed = {"left": torch.cat(lefts), "right": torch.cat(rights)}
        tensors = {
            f"{side}_{slot}": tensor
            for side, factor in packed.items()
            for slot, tensor in self._storage.compress(factor).state().items()
        }
        return self._of_rank(rank), tensors

    def _next(self, missing: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """Factors (rank, m) and (rank, n) of what is missing, and what then is missing still."""
        left, right = truncated(missing, rank)
        left = left.T
        rounded = self._rounded(left)
        if self.factor_bits in QUANTISED:
            right = (pseudo_inverse(rounded.T) @ missing.double()).float()
        after = missing - rounded.T @ self._rounded(right)
        if after.norm() >= missing.norm():
            return torch.zeros_like(left), torch.zeros_like(right), missing
        return left, right, after

    def _rounded(self, factor: Tensor) -> Tensor:
        return self._storage.compress(factor).dense()

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        left, right = (self._factor(side, tensors, shape) for side in ("left", "right"))
        return (left.T @ right).view(shape)

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """See :meth:`Method.rows`: of the left factor, times the right one."""
        left, right = (self._factor(side, tensors, shape) for side in ("left", "right"))
        return (left[:, start:stop].T @ right).view(-1, *shape[1:])

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """Through the right factors, then the left ones: K (m + n) products."""
        left, right = (self._factor(side, tensors, shape) for side in ("left", "right"))
        return x @ right.to(x.dtype).T @ left.to(x.dtype)

    def _factor(self, side: str, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        matrix = self._matrices(shape)[side]
        own = {slot: tensors[f"{side}_{slot}"] for slot in self._storage.layout(matrix)}
        return self._storage.decode(own, matrix).float()

    def _matrices(self, shape: Shape) -> dict[str, Shape]:
        rows, columns = matrix_shape(shape)
        total = self._total(shape)
        return {"left": (total, rows), "right": (total, columns)}

    def forms(self, shape: Shape) -> Iterable[Method]:
        """See :meth:`Nested.forms`: fewer pairs, as each is of what those before it leave."""
        return [self.replace(pairs=pairs) for pairs in range(self.pairs - 1, 0, -1)]

    def at_level(
        self, tensors: Mapping[str, Tensor], shape: Shape, level: Method
    ) -> dict[str, Tensor]:
        """See :meth:`Nested.at_level`: the first rows of both factors."""
        storage: Croppable = self._storage  # type: ignore[assignment]
        rows = level.macs(shape) // sum(matrix_shape(shape))
        found: dict[str, Tensor] = {}
        for side, matrix in self._matrices(shape).items():
            own = {slot: tensors[f"{side}_{slot}"] for slot in storage.layout(matrix)}
            fewer = storage.crop(own, matrix, (rows, matrix[1]))
            found |= {f"{side}_{slot}": tensor for slot, tensor in fewer.items()}
        return found

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        return {
            f"{side}_{slot}": spec
            for side, matrix in self._matrices(shape).items()
            for slot, spec in self._storage.layout(matrix).items()
        }

    @property
    def may_go_first(self) -> bool:
        """Unless its factors are quantised already."""
        return self.factor_bits not in QUANTISED

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """Both factors, where they are floats."""
        if not self.may_go_first:
            return {}
        return {f"{side}_weight": matrix for side, matrix in self._matrices(shape).items()}

    def nominal_bits(self, shape: Shape) -> int:
        """``factor_bits`` for each of the K (m + n) values."""
        return self.factor_bits * self.macs(shape)

    def macs(self, shape: Shape) -> int:
        """``K (m + n)``."""
        return self._total(shape) * sum(matrix_shape(shape))
