"""A pyramid of low-rank deltas: of all layers, of some, of each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import Chain, Chained, ChainedAdapter, random_matrix
from compression.methods.base import Shape, matrix_shape
from compression.registry import IntRange, Values, knob

_LEVELS = ("global", "group", "local")


@ADAPTERS.register("msplora")
class MspLora(ChainedAdapter):
    """MSPLoRA: ``y = W x + (alpha / r) (B_g A_g + B_k A_k + B_l A_l) x``, shared less and less.

    A_g (r, n), B_g are of all layers of one shape, A_k (r / 2, n), B_k of ``group_size`` of them in
    a row, A_l (r / 4, n), B_l of each; half ranks are rounded down, to 1 at least. All B start at
    0: the base exactly. Published for one stack of equal layers; here each shape is a stack of its
    own. Stored bytes, for L layers of one shape: ``b (m + n) (r + ceil(L / g) r / 2 + L r / 4)``.

    Source: Zhao et al., MSPLoRA, arXiv 2503.21838.
    """

    catalogue_id = "001-102"
    trained = frozenset(f"{level}_{side}" for level in _LEVELS for side in "AB")
    shared = frozenset(f"{level}_{side}" for level in _LEVELS[:2] for side in "AB")
    group_size: int = knob(
        2, IntRange(1, 1024), Values((2, 4, 8)), help="layers that share B_k A_k"
    )

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        rows, columns = matrix_shape(shape)
        found: dict[str, Shape] = {}
        for depth, level in enumerate(_LEVELS):
            own = max(rank >> depth, 1)
            found |= {f"{level}_A": (own, columns), f"{level}_B": (rows, own)}
        return found

    def lenders(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[tuple[str, str], str]:
        """See :meth:`ChainedAdapter.lenders`: of a group, its first layer."""
        stacks: dict[tuple[Shape, int], list[str]] = {}
        for name, kind in layers.items():
            stacks.setdefault(kind, []).append(name)
        found: dict[tuple[str, str], str] = {}
        for stack in stacks.values():
            for index, name in enumerate(stack):
                head = stack[index - index % self.group_size]
                found |= {(name, f"global_{side}"): stack[0] for side in "AB"}
                found |= {(name, f"group_{side}"): head for side in "AB"}
        return found

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        sizes = self.slots(tuple(weight.shape), start.rank)
        return {
            suffix: weight.new_zeros(size) if suffix.endswith("B") else random_matrix(*size)
            for suffix, size in sizes.items()
        }

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        return [Chain(layer.scale, (own[f"{e}_A"], own[f"{e}_B"])) for e in _LEVELS]
