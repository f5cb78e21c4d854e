"""What optimizers that project gradients share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def divided(params: Sequence[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices and kernels, which are projected, and all others."""
    return [p for p in params if p.ndim >= 2], [p for p in params if p.ndim < 2]


def wide(tensor: Tensor) -> Tensor:
    """The matrix (k, l) with k <= l: a kernel by its flattened filters, what is tall transposed."""
    flat = tensor.flatten(1)
    # Contiguous, as a state is once it was stored: sums go by the order in memory.
    return flat.T.contiguous() if _tall(tensor) else flat.contiguous()


def unwidened(step: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`wide`, in the shape of ``like``."""
    return (step.T if _tall(like) else step).reshape(like.shape)


def _tall(tensor: Tensor) -> bool:
    return len(tensor) ** 2 > tensor.numel()


def gaussian(shape: tuple[int, int], index: int, drawn: int) -> Tensor:
    """Standard normal numbers: the same for the same tensor and draw, on every device."""
    # On the CPU, from numbers of its own: no trial may read or move the global randomness.
    digest = hashlib.sha256(f"{index}/{drawn}".encode()).digest()
    seed = int.from_bytes(digest[:4], "little")  # torch's generator on the CPU reads 32 bits
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
