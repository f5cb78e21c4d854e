"""Adapters whose delta is made of the base and of factors: PEFT's HiRA, PEANuT, DEFT, GLoRA."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from compression.adapters.base import ADAPTERS
from compression.adapters.bridge.bridged import Bridged
from compression.kinds import bare
from compression.methods.base import Method, Shape, matrix_shape
from compression.registry import FloatRange, IntRange, Values, knob


@ADAPTERS.register("hira")
class Hira(Bridged):
    """HiRA: ``y = W x + (W * (B A)) x``, an elementwise product; B (m, r) is 0 at the start.

    The rank of the delta is up to that of W times r; where the base is 0 it stays 0. On a
    convolution A is an r-channel kernel of the layer's size and B a 1x1 one. Stored bytes, at b a
    value: ``b r (m + n)``.

    Source: Huang et al., HiRA, ICLR 2025.
    """

    peft_type = "HIRA"
    of_base = True
    kinds = frozenset({"linear", "conv2d"})
    overlooked = frozenset({"groups", "padding_mode"})
    scaled = False
    # PEFT's comparison takes 4.5e-3 where its LoRA takes 1e-4: the delta is scaled by W. The best
    # of docs/adapters.md are 1.4 times LoRA's: in between.
    lr_factor = 8.0

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank}

    def macs(self, shape: Shape, rank: int) -> int:
        """``m n``: the delta is dense."""
        return math.prod(shape)


@ADAPTERS.register("peanut")
class Peanut(Bridged):
    """PEANuT: ``y = W x + s B f(A W) x``, f an elementwise function, A (r, m), B (m, r) trained.

    The delta is a small network of the columns of W. With ``depth`` d there are d layers (r, r)
    that lead on from f(A W), and d that lead back, each with f and the latter with residuals. B is
    0 at the start. Stored bytes, at b a value: ``2 b r (m + depth r)``.

    Source: Zhong et al., PEANuT, arXiv 2410.01870.
    """

    peft_type = "PEANUT"
    of_base = True
    scaled = False
    depth: int = knob(0, IntRange(0, 16), search=Values((0, 1, 2)), help="hidden layers each way")
    activation: str = knob(
        "relu", Values(("relu", "gelu", "silu", "tanh")), help="the elementwise function"
    )
    scaling: float = knob(
        1.0, FloatRange(1e-6, 1e3), search=FloatRange(0.5, 8.0, log=True), help="of the delta"
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {
            "r": rank,
            "depth": self.depth,
            "act_fn": self.activation,
            "scaling": self.scaling,
        }

    def macs(self, shape: Shape, rank: int) -> int:
        """``m n``: the delta is dense."""
        return math.prod(shape)


@ADAPTERS.register("deft")
class Deft(Bridged):
    """DEFT: ``y = (I - Q P^T) W x + Q R x``: a part of what W puts out is replaced; P, R trained.

    P (m, r) starts at random and R (r, n) at ``P^T W``, so the layer starts as the base, but for
    rounding. ``qr``: Q is an orthonormal basis of P, and takes its place. ``relu``: ``Q = P``, with
    ``relu(P)`` in the place of P. The variant without R is left out: it cannot start as the base.
    Stored bytes, at b a value: ``b r (m + n)``.

    Source: DEFT, Decompositional Efficient Fine-Tuning, as PEFT has it.
    """

    peft_type = "DEFT"
    of_base = True
    scaled = False
    projector: str = knob(
        "qr", Values(("qr", "relu")), search=Values(("qr", "relu")), help="how P becomes Q"
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "decomposition_method": self.projector}

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + r m``: W x is projected, too."""
        rows, columns = matrix_shape(shape)
        return rank * (2 * rows + columns)


@dataclass(frozen=True)
class _Glora(Bridged):
    """What GLoRA's forms share."""

    peft_type = "GLORA"
    of_base = True
    scaled = False
    # PEFT's comparison takes 5e-4 where its LoRA takes 1e-4; the best of docs/adapters.md are 1.8
    # times LoRA's, with vectors 0.2.
    lr_factor = 2.0
    paths: ClassVar[str]
    bias: bool = knob(False, Values((False, True)), help="C, D and E, too")

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        form = "vector" if self.bias else "none"
        return {"r": rank or 1, "config_A_B": self.paths, "config_C": form, "config_D_E": form}

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`."""
        yield from super().refusals(layers, rank, methods)
        for name, layer in layers.items():
            if self.bias and getattr(bare(layer), "bias", None) is None:
                yield f"{self.name} cannot take '{name}': it has no bias; set bias to false"

    def macs(self, shape: Shape, rank: int) -> int:
        """``m n``: a second dense product."""
        return math.prod(shape)


@ADAPTERS.register("glora")
class Glora(_Glora):
    """GLoRA: ``y = (W + W * A + B) x + b + b * D + E + W C``, A and B products of rank r.

    All are trained, and make nothing of W and b at the start. C (n,), D and E (m,) are there with
    ``bias``, on layers that have one. The paper searches a form for each layer; here all layers of
    a rule have one. Stored bytes, at s a value: ``2 s r (m + n)``, and ``s (n + 2 m)`` with
    ``bias``.

    Source: Chavan et al., One-for-All: GLoRA, arXiv 2306.07967.
    """

    paths = "lora"


@ADAPTERS.register("glora_vector")
class GloraVector(_Glora):
    """GLoRA with vectors: ``y = (W + a * W + d 1^T) x + b + b * D + E + W C``, a and d (m,).

    All are trained from 0: a scales the rows of W, d adds the same to all entries of a row; the
    rest as in ``glora``. Stored bytes, at s a value: ``2 s m``, and ``s (n + 2 m)`` with ``bias``.

    Source: Chavan et al., One-for-All: GLoRA, arXiv 2306.07967.
    """

    ranked = False
    paths = "vector"
