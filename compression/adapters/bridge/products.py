"""Adapters whose delta is a product of small trained matrices, but not LoRA's: those of PEFT."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from compression.adapters.base import ADAPTERS
from compression.adapters.bridge.bridged import Bridged
from compression.adapters.bridge.peft_layers import divisors
from compression.methods.base import Method, Shape, matrix_shape
from compression.registry import FloatRange, IntRange, Values, knob
from compression.stats import LayerStats


@ADAPTERS.register("loha")
class Loha(Bridged):
    """LoHa: ``y = W x + (alpha / r) ((A1 B1) * (A2 B2)) x``, an elementwise product of rank r^2.

    A1, A2 (m, r) and B1, B2 (r, n) are trained, B2 is 0 at the start. A convolution's weight is
    taken as the matrix (m, n); with ``tucker`` each factor is a core (r, r, kh, kw) between A
    (r, m) and B (r, channels). Stored bytes, at b a value: ``2 b r (m + n)``.

    Source: Hyeon-Woo et al., FedPara, arXiv 2108.06098; Yeh et al., LyCORIS, arXiv 2309.14859.
    """

    peft_type = "LOHA"
    kinds = frozenset({"linear", "conv2d"})
    overlooked = frozenset({"padding_mode"})
    tucker: bool = knob(
        False, Values((False, True)), help="cores of the kernel's size, on kernels above 1x1"
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "alpha": alpha, "use_effective_conv2d": self.tucker}

    def macs(self, shape: Shape, rank: int) -> int:
        """``m n``: the delta is dense."""
        return math.prod(shape)


@ADAPTERS.register("lokr")
class Lokr(Bridged):
    """LoKr: ``y = W x + (alpha / r) (C kron D) x``; m and n each split into two factors.

    C (m1, n1), 0 at the start, and D (m2, n2) are trained, m1 m2 = m and n1 n2 = n, m1 and n1
    nearest to ``factor`` from below, or to the roots under -1. D, and with ``decompose_both`` C, is
    a product of rank r where that is below half its larger side. A convolution's kernel belongs to
    D. Stored bytes, at b a value: ``b (m1 n1 + r (m2 + n2))``, ``b (m1 n1 + m2 n2)`` for a full D.

    Source: Edalati et al., KronA, arXiv 2212.10650; Yeh et al., LyCORIS, arXiv 2309.14859.
    """

    peft_type = "LOKR"
    kinds = frozenset({"linear", "conv2d"})
    overlooked = frozenset({"padding_mode"})
    # PEFT's comparison takes 3e-3 where its LoRA takes 1e-4; the best of docs/adapters.md are as
    # LoRA's: in between.
    lr_factor = 5.0
    factor: int = knob(
        -1,
        IntRange(-1, 2**16),
        search=Values((-1, 4, 8, 16)),
        help="sides of the first matrix at most; -1: near the square roots",
    )
    decompose_both: bool = knob(
        False, Values((False, True)), help="the first matrix is a product of rank r, too"
    )
    tucker: bool = knob(
        False, Values((False, True)), help="a core of the kernel's size, on kernels above 1x1"
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {
            "r": rank,
            "alpha": alpha,
            "decompose_factor": self.factor,
            "decompose_both": self.decompose_both,
            "use_effective_conv2d": self.tucker,
        }

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        if not self.factor:
            yield "factor 0 is no size; -1 asks for the square roots"

    def macs(self, shape: Shape, rank: int) -> int:
        """``m n``: the delta is dense."""
        return math.prod(shape)


@ADAPTERS.register("gralora")
class Gralora(Bridged):
    """GraLoRA: W in ``k x k`` blocks, each with a LoRA of its own of rank r / k.

    Block (i, j) of the delta is ``s B_ij A_ij``, s = alpha / (r + hybrid_rank), B 0 at the start.
    As many values as LoRA of rank r, for a rank up to k r; at k = 1 it is LoRA. ``hybrid_rank``
    ranks of a LoRA over the whole of W can be added. Stored bytes, at b a value:
    ``b (r + hybrid_rank) (m + n)``.

    Source: Jung et al., GraLoRA, arXiv 2505.20355.
    """

    catalogue_id = "001-160"
    peft_type = "GRALORA"
    # PEFT's comparison takes 2e-4 where its LoRA takes 1e-4.
    lr_factor = 2.0
    k: int = knob(2, IntRange(1, 64), search=Values((1, 2, 4)), help="blocks along each side")
    hybrid_rank: int = knob(0, IntRange(0, 2**16), help="ranks of a LoRA beside the blocks'")

    def scale(self, alpha: float | None, rank: int) -> float:
        """See :meth:`Adapter.scale`: ``alpha / (r + hybrid_rank)``."""
        return 1.0 if alpha is None else alpha / (rank + self.hybrid_rank)

    def ranks(
        self, rank: int, shapes: Mapping[str, Shape], stats: Mapping[str, LayerStats]
    ) -> dict[str, int]:
        """See :meth:`Adapter.ranks`: what is clamped stays a multiple of k."""
        given = super().ranks(rank, shapes, stats)
        return {n: r if r == rank else r - r % self.k for n, r in given.items()}

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`: PEFT divides alpha by all ranks."""
        return {
            "r": rank,
            "alpha": alpha / rank * (rank + self.hybrid_rank),
            "gralora_k": self.k,
            "hybrid_r": self.hybrid_rank,
        }

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        if rank % self.k:
            yield f"rank {rank} must be a multiple of k = {self.k}"
        if any(side % self.k for side in shape):
            yield f"k {self.k} must divide both sides; it may be one of {divisors(*shape)}"

    def macs(self, shape: Shape, rank: int) -> int:
        """``(r + hybrid_rank) (m + n)``."""
        return (rank + self.hybrid_rank) * sum(matrix_shape(shape))


@ADAPTERS.register("miss")
class Miss(Bridged):
    """MiSS: ``y = W x + D^T S x``, S x the r sums over every r-th input; D (r, m) trained from 0.

    So the delta is D^T again and again along the inputs. ``mini``: D (r, mini_rank) is repeated
    along the outputs, too. ``bat``: blocks W_ij (r, r) of W become ``W_ij + W_ij D_i + D_i``, D
    (m / r, r, r). Stored bytes, at b a value: ``b r m``, ``b r mini_rank``, ``b r m``.

    Source: Kang et al., MiSS, arXiv 2409.15371.
    """

    peft_type = "MISS"
    scaled = False
    variant: str = knob(
        "plain",
        Values(("plain", "mini", "bat")),
        search=Values(("plain", "bat")),
        help="plain, mini (D repeated along the outputs), or bat (D multiplies W, too)",
    )
    mini_rank: int = knob(
        8,
        IntRange(1, 2**16),
        when={"variant": ("mini",)},
        help="columns of D before it is repeated",
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        init = True if self.variant == "plain" else self.variant
        return {"r": rank, "init_weights": init, "mini_r": self.mini_rank}

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`: only ``bat`` changes the base."""
        yield from super().refusals(layers, rank, methods)
        for method in dict.fromkeys(methods):
            if self.variant == "bat" and method.base_is_gone:
                yield f"{self.name} bat changes the base, of which {method.name} leaves nothing"

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        if self.variant == "bat" and any(side % rank for side in shape):
            yield f"under bat the rank must divide both sides; it may be one of {divisors(*shape)}"
        if self.variant == "mini" and shape[0] % self.mini_rank:
            yield (
                f"mini_rank {self.mini_rank} must divide the {shape[0]} outputs; "
                f"it may be one of {divisors(shape[0])}"
            )

    def macs(self, shape: Shape, rank: int) -> int:
        """``r m``; under ``bat`` none, as D goes into the weight."""
        return 0 if self.variant == "bat" else rank * shape[0]


@ADAPTERS.register("delora")
class Delora(Bridged):
    """DeLoRA: ``y = W x + (l / r) sum_i b_i a_i^T (w * x) / (||b_i|| ||a_i||)``; l, A, B trained.

    l bounds the size of the delta, apart from its direction; w (n,) are the norms of W's columns.
    B is 0 at the start, norms have a floor of 1e-4. PEFT takes w from the base it finds; here that
    is the compressed one, and as norms do not come out bit for bit everywhere, w is stored. Stored
    bytes, at b a value: ``b (r (m + n) + n + 1)``.

    Source: Bini et al., Decoupling Angles and Strength in Low-rank Adaptation, arXiv 2503.18225.
    """

    peft_type = "DELORA"
    of_base = True
    scaled = False
    kept = ("delora_w_norm",)
    # PEFT's comparison takes 1e-3 where its LoRA takes 1e-4; the best of docs/adapters.md are a
    # tenth of LoRA's: in between.
    lr_factor = 1.0
    bound: float = knob(
        15.0,
        FloatRange(1e-3, 1e4),
        search=FloatRange(1.0, 30.0, log=True),
        help="where l starts",
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "delora_lambda": self.bound}

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + r + n``."""
        rows, columns = matrix_shape(shape)
        return rank * (rows + columns) + rank + columns
