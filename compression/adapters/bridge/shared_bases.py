"""Adapters whose layers share tensors, frozen or trained: PEFT's VeRA, RandLoRA, Lily."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compression import philox
from compression.adapters.base import ADAPTERS
from compression.adapters.bridge.bridged import Bridged, Fill
from compression.adapters.bridge.peft_layers import HOLDER
from compression.methods.base import Shape, matrix_shape
from compression.registry import FloatRange, IntRange, Values, knob


def kaiming(stream: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Uniform with the variance ``2 / fan_in``, as Kaiming's for a matrix (out, in)."""
    return philox.uniform(stream, tuple(tensor.shape), math.sqrt(6 / tensor.shape[-1])).to(tensor)


@ADAPTERS.register("vera")
class Vera(Bridged):
    """VeRA: ``y = W x + b * B (d * A x)``, A and B frozen, random, shared; b, d train.

    All layers share A and B. b (out,) starts at 0, d (rank,) at ``d_initial``. Stored bytes, at b
    a value: ``b (m + r)`` a layer, and 8 in all for the checksum of A and B, which are rebuilt from
    ``seed``.

    Source: Kopiczko et al., VeRA, arXiv 2310.11454.
    """

    catalogue_id = "001-88"
    peft_type = "VERA"
    shared = True
    scaled = False
    seeded = {"vera_A": kaiming, "vera_B": kaiming}
    # The paper, and PEFT's comparison, take ten times LoRA's.
    lr_factor = 10.0
    d_initial: float = knob(0.1, FloatRange(1e-9, 1.0), help="where d starts")
    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of the shared A and B")

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "d_initial": self.d_initial, "save_projection": False}

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + r + m``."""
        rows, columns = matrix_shape(shape)
        return rank * (rows + columns) + rank + rows


def unit(stream: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Uniform of variance 1."""
    return philox.uniform(stream, tuple(tensor.shape), math.sqrt(3)).to(tensor)


def sparse(stream: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Of variance 1; two of three are 0."""
    return philox.ternary(stream, tuple(tensor.shape), 3.0).to(tensor)


def very_sparse(stream: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Of variance 1; one of sqrt(d) is not 0, d the smaller side, for B in full bases."""
    side = math.prod(tensor.shape[1:])  # A is (r, 1, d), B is (D, bases, r)
    return philox.ternary(stream, tuple(tensor.shape), math.sqrt(side)).to(tensor)


_BASES: Mapping[str, Fill] = {"dense": unit, "sparse": sparse, "very_sparse": very_sparse}


@ADAPTERS.register("randlora")
class Randlora(Bridged):
    """RandLoRA: ``y = W x + (alpha / r) sum_j B_j L_j A G_j x``, A, B_j frozen, L_j, G_j trained.

    There are k = ceil(min(m, n) / r) products of rank r, so that the delta can have full rank: the
    smaller r, the more is trained. A (r, d) and B_j (D, r) are random with variance 1, shared by
    all layers, d the smaller side of a layer and D the larger (on layers with m < n the product is
    transposed). L_j (r,), diagonal, starts at 0, G_j (d,) at 1 / max(k, d). Stored bytes, at b a
    value: ``b k (r + min(m, n))`` a layer, and 8 in all for the checksum of A and B, which are
    rebuilt from ``seed``.

    Source: Albert et al., RandLoRA, arXiv 2502.00987.
    """

    catalogue_id = "001-65"
    peft_type = "RANDLORA"
    shared = True
    # PEFT's comparison takes LoRA's at alpha / r = 20, which makes steps 20 times as large; the
    # best of docs/adapters.md are half of LoRA's: in between.
    lr_factor = 3.0
    basis: str = knob(
        "dense",
        Values(tuple(_BASES)),
        search=Values(tuple(_BASES)),
        help="uniform, or ternary with 1/3 or 1/sqrt(d) of the entries not 0",
    )
    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of the shared A and B")

    def fills(self) -> Mapping[str, Fill]:
        """See :meth:`Bridged.fills`."""
        return dict.fromkeys(("randlora_A", "randlora_B"), _BASES[self.basis])

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`: the kind of basis is ours to draw."""
        return {"r": rank, "randlora_alpha": alpha, "save_projection": False}

    def macs(self, shape: Shape, rank: int) -> int:
        """``k r (m + n)`` with ``k = ceil(min(m, n) / r)``."""
        rows, columns = matrix_shape(shape)
        return -(-min(rows, columns) // rank) * rank * (rows + columns)


@ADAPTERS.register("lily")
class Lily(Bridged):
    """Lily: ``y = W x + s sum_e p_e B_e^T A x``, p the softmax of a router over E shared B_e.

    A (r, n) is shared by ``stride`` layers of one shape that follow each other, the B_e (r, m) by
    all layers of that shape; the router (E, r) reads A x and is the layer's own. B starts at 0. As
    in PEFT, p is the mean over all positions of a batch: outputs depend, slightly, on what else is
    in the batch. PEFT shares among layers whose names end alike; here it is all the adapter's
    layers of one shape. Stored bytes, at b a value: ``b r n`` for each ``stride`` layers of a
    shape, ``b E r m`` for each shape, ``b E r`` for each layer.

    Source: Zhong et al., Low-Rank Interconnected Adaptation across Layers, arXiv 2407.09946.
    """

    peft_type = "LILY"
    shared = True
    scaled = False
    stride: int = knob(
        1, IntRange(1, 256), search=Values((1, 2, 4)), help="layers in a row that share A"
    )
    experts: int = knob(2, IntRange(2, 256), search=Values((2, 4, 8)), help="B's to mix")
    scaling: float = knob(
        1.0, FloatRange(1e-6, 1e3), search=FloatRange(0.5, 8.0, log=True), help="of the delta"
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`: one pattern for all layers, or PEFT shares nothing."""
        return {
            "r": rank,
            "stride_A": self.stride,
            "num_B": self.experts,
            "scaling": self.scaling,
            "target_modules": HOLDER,
        }

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + E r``; mixing the B_e is once for a batch."""
        return rank * sum(matrix_shape(shape)) + self.experts * rank
