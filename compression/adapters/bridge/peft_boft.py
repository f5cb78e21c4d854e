"""PEFT's BOFT layers with butterfly factors on every machine. Import late: it imports PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.boft import layer as peft_boft
from torch import Tensor, nn

from compression.adapters.bridge.peft_layers import PEFT_NAME


@contextmanager
def unextended() -> Iterator[None]:
    """PEFT takes its CUDA extension for loaded: it keeps the factors as asked, and builds none."""
    theirs: Any = peft_boft
    before = theirs._FBD_CUDA
    theirs._FBD_CUDA = True
    try:
        yield
    finally:
        theirs._FBD_CUDA = before


class IndexedBoft(peft_boft.Linear):
    """BOFT on a Linear; permutations by indexing, blocks by one batched product."""

    boft_back: Tensor
    boft_into: Tensor

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``diag(s) W R x``; the bias is not scaled."""
        base: Any = self.base_layer
        if self.disable_adapters:
            plain: Tensor = base(x, *args, **kwargs)
            return plain
        rotated = self.rotate(x.to(self.boft_R[PEFT_NAME].dtype))
        result: Tensor = base(rotated.to(x.dtype), *args, **kwargs)
        scale: Tensor = self.boft_s[PEFT_NAME].squeeze(-1)
        bias: Tensor | None = base.bias
        scaled = result * scale if bias is None else (result - bias) * scale + bias
        return scaled.to(result.dtype)

    def rotate(self, x: Tensor) -> Tensor:
        """``R x`` of rows x (..., n): ``x P B P^T`` factor by factor, the last one first."""
        blocks = self.blocks()
        for factor in reversed(range(len(blocks))):
            cut = x[..., self.boft_into[factor]].reshape(*x.shape[:-1], *blocks.shape[1:3])
            turned = torch.einsum("...db,dbc->...dc", cut, blocks[factor])
            x = turned.flatten(-2)[..., self.boft_back[factor]]
        return x

    def blocks(self) -> Tensor:
        """The orthogonal blocks (factors, n / b, b, b)."""
        raw: Tensor = self.boft_R[PEFT_NAME]
        inner: Any = self
        blocks: Tensor = inner.cayley_batch(raw.flatten(0, 1))
        return blocks.view_as(raw)


@torch.no_grad()
def by_indexing(wrapped: nn.Module) -> None:
    """Make PEFT's layer an :class:`IndexedBoft`, its permutation matrices (f, n, n) indices."""
    back: Tensor = wrapped.boft_P.argmax(-1)  # type: ignore[operator]
    del wrapped.boft_P
    wrapped.register_buffer("boft_back", back, persistent=False)
    wrapped.register_buffer("boft_into", back.argsort(-1), persistent=False)
    wrapped.__class__ = IndexedBoft
