"""Adapters that rotate the weight: PEFT's OFT, BOFT, HRA and PSOFT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from compression.acting import Acting
from compression.adapters.base import ADAPTERS
from compression.adapters.bridge.bridged import Bridged
from compression.adapters.bridge.peft_layers import SQUARE, divisors, held
from compression.methods.base import Shape, Slot, matrix_shape
from compression.precision import DTYPES
from compression.registry import FloatRange, IntRange, Values, knob
from compression.stats import LayerStats


@ADAPTERS.register("oft")
class Oft(Bridged):
    """OFT: ``y = W R x``, R block-diagonal with n / b orthogonal blocks (b, b).

    A block is Cayley's ``(I - Q)(I + Q)^-1`` of a skew-symmetric Q with b (b - 1) / 2 trained
    values, 0 at the start. ``neumann_terms`` above 0 takes so many terms of the series of its
    inverse instead, as OFTv2 does: faster, and orthogonal only nearly. The constrained variant is
    left out: it writes to its parameters in the forward pass. PEFT's Conv2d layer is left out: it
    adds overlapping patches up again, and so does not start at the base. Stored bytes, at s a
    value: ``s n (b - 1) / 2``, with ``share`` once for all blocks: ``s b (b - 1) / 2``.

    Source: Qiu et al., OFT, arXiv 2306.07280; Qiu et al., OFTv2, arXiv 2506.19847.
    """

    peft_type = "OFT"
    of_base = True
    ranked = scaled = False
    block_size: int = knob(
        16,
        IntRange(2, 2**14),
        search=Values((8, 16, 32)),
        help="side of an orthogonal block; divides all ins",
    )
    share: bool = knob(False, Values((False, True)), help="one block for the whole layer")
    neumann_terms: int = knob(
        0, Values((0, 3, 5, 8)), help="terms of a series for the inverse; 0: the inverse itself"
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        terms = {"num_cayley_neumann_terms": self.neumann_terms} if self.neumann_terms else {}
        return {
            "oft_block_size": self.block_size,
            "block_share": self.share,
            "use_cayley_neumann": bool(self.neumann_terms),
            **terms,
        }

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`: PEFT would take the nearest size that fits."""
        if shape[1] % self.block_size:
            fit = divisors(shape[1])
            yield f"block_size {self.block_size} must divide its {shape[1]} inputs; one of {fit}"

    def macs(self, shape: Shape, rank: int) -> int:
        """``n b``: inputs are rotated."""
        return matrix_shape(shape)[1] * self.block_size


@ADAPTERS.register("boft")
class Boft(Bridged):
    """BOFT: ``y = diag(s) W R x``, R a product of ``factors`` butterfly factors; s, R trained.

    Each factor is block-diagonal, with n / b orthogonal blocks (b, b) by Cayley, between a
    permutation and its inverse; the i-th joins blocks 2^(i - 1) apart. R starts at I, s at 1. PEFT
    has more than one factor only where its CUDA extension can be built, and quietly takes one
    elsewhere; here the factors are as asked on every machine, applied to the inputs by indexing.
    Its Conv2d layer is left out: kernels with 9 positions have few sizes that butterflies divide.
    Stored bytes, at c a value: ``c (factors n b + m)`` a layer, and 8 in all for the checksum of
    the permutations, which are PEFT's. It trains all b^2 values of a block, though only the
    skew-symmetric part has an effect.

    Source: Liu et al., BOFT, arXiv 2311.06243.
    """

    peft_type = "BOFT"
    of_base = True
    ranked = scaled = False
    block_size: int = knob(
        8,
        IntRange(2, 2**14),
        search=Values((4, 8, 16)),
        help="side of an orthogonal block; even, and times 2^(factors - 1) divides all ins",
    )
    factors: int = knob(2, IntRange(1, 12), search=Values((1, 2)), help="butterfly factors")

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"boft_block_size": self.block_size, "boft_n_butterfly_factor": self.factors}

    def making(self) -> AbstractContextManager[Any]:
        """See :meth:`Bridged.making`: without an attempt to build the CUDA extension."""
        from compression.adapters.bridge.peft_boft import unextended

        return unextended()

    def mend(self, wrapped: nn.Module) -> None:
        """See :meth:`Bridged.mend`."""
        from compression.adapters.bridge.peft_boft import by_indexing

        by_indexing(wrapped)

    def witnesses(self, wrapped: nn.Module) -> list[Tensor]:
        """See :meth:`Bridged.witnesses`: the permutations."""
        return [held(wrapped, "boft_back")]

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        unit = 2 ** (self.factors - 1)
        if shape[1] % (self.block_size * unit) or (self.factors > 1 and self.block_size % 2):
            even = "even, and " if self.factors > 1 else ""
            fit = divisors(shape[1] // unit) if not shape[1] % unit else "none"
            yield (
                f"block_size {self.block_size} must be {even}times 2^(factors - 1) = {unit} divide "
                f"its {shape[1]} inputs; without regard to evenness one of: {fit}"
            )

    def macs(self, shape: Shape, rank: int) -> int:
        """``factors n b + m``: inputs are rotated."""
        rows, columns = matrix_shape(shape)
        return self.factors * columns * self.block_size + rows


@ADAPTERS.register("hra")
class Hra(Bridged):
    """HRA: ``y = W H_1 ... H_r x`` with reflections ``H_i = I - 2 u_i u_i^T / |u_i|^2``.

    The u_i (n,) are trained. They start in equal pairs, whose reflections cancel: r is even. The
    singular values of W stay what they are. ``orthogonality`` weighs the penalty
    ``||I - U^T U||^2`` on unit vectors U, the paper's lambda; its limit, vectors made orthogonal by
    Gram-Schmidt, is left out: no such W starts as the base. Stored bytes, at b a value: ``b r n``.

    Source: Yuan et al., HRA, arXiv 2405.17484.
    """

    catalogue_id = "001-148"
    peft_type = "HRA"
    of_base = True
    kinds = frozenset({"linear", "conv2d"})
    overlooked = SQUARE
    scaled = False
    orthogonality: float = knob(
        0.0, FloatRange(0.0, 1e3), help="weight of the penalty on vectors that are not orthogonal"
    )

    def ranks(
        self, rank: int, shapes: Mapping[str, Shape], stats: Mapping[str, LayerStats]
    ) -> dict[str, int]:
        """See :meth:`Adapter.ranks`: what is clamped stays even."""
        given = super().ranks(rank, shapes, stats)
        return {name: r if r == rank else r - r % 2 for name, r in given.items()}

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank}

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        if rank % 2:
            yield f"rank {rank} is odd; reflections start in pairs, so it must be even"

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting | None:
        """See :meth:`Adapter.acting`: the penalty, where it has a weight."""
        if not self.orthogonality:
            return None
        return _Orthogonality(list(self.parameters(model, layers).values()), self.orthogonality)

    def macs(self, shape: Shape, rank: int) -> int:
        """``2 r n``: inputs are reflected."""
        return 2 * rank * matrix_shape(shape)[1]


class _Orthogonality(Acting):
    """``weight * ||I - U^T U||^2`` of the unit columns of each tensor."""

    def __init__(self, tensors: list[Tensor], weight: float) -> None:
        self.tensors, self.weight = tensors, weight

    def penalty(self) -> Tensor:
        """See :meth:`Acting.penalty`."""
        found = []
        for tensor in self.tensors:
            unit = tensor / tensor.norm(dim=0)
            found.append((unit.T @ unit - torch.eye(unit.shape[1]).to(unit)).square().sum())
        return self.weight * torch.stack(found).sum()


@ADAPTERS.register("psoft")
class Psoft(Bridged):
    """PSOFT: ``y = W x + B (diag(b) R diag(a) - I) A x``, R (r, r) orthogonal by Cayley; trained.

    B A is the best approximation of W of rank r, A with orthonormal rows; both are frozen. R starts
    at I, a and b (r,) at 1. PEFT finds B and A by an SVD of the base, here the compressed one; an
    SVD does not come out bit for bit everywhere, so B and A are stored and counted, where the
    method has only R, a and b to store. alpha cancels. Stored bytes, at b a value:
    ``b (r (r - 1) / 2 + 2 r + r (m + n))``.

    Source: Wu et al., PSOFT, arXiv 2505.11235.
    """

    peft_type = "PSOFT"
    of_base = True
    scaled = False
    kept = ("_psoft_A_cache", "_psoft_B_cache")
    asks_peft = False

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "psoft_alpha": rank, "ab_svd_init": "psoft_init"}

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`: in closed form, as PEFT would take an SVD each time."""
        slots = {}
        for name, (shape, rank) in layers.items():
            sizes: dict[str, Shape] = {
                "psoft_R": (rank * (rank - 1) // 2,),
                "psoft_R.vector_b": (rank,),
                "psoft_R.vector_a": (rank,),
                "psoft_A_cache": (rank, shape[1]),
                "psoft_B_cache": (shape[0], rank),
            }
            for suffix, size in sizes.items():
                slots[f"{name}.{suffix}"] = Slot(DTYPES[self.dtype], size, "adapter")
        return slots

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + r^2``."""
        return rank * sum(matrix_shape(shape)) + rank * rank
