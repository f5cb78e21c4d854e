"""Nothing is kept of a weight: the adapter stands for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot
from compression.stats import LayerStats


@METHODS.register("drop_base")
class DropBase(Method):
    """The layer is its adapter: ``y = B A x + c``, with c in the place of its bias and trained.

    Nothing is left of W. Where the adapter starts follows from its init: with ``residual`` it is
    the truncated SVD of W, with ``eora`` the whitened one, with ``zeros`` nothing, which recipe
    ``progressive`` begins with. Stored bytes: 0, beside the adapter's and the bias.

    Source: PC-LoRA, arXiv 2406.09117, catalogue 002.
    """

    catalogue_id = "002"
    kinds = frozenset({"linear", "conv2d"})
    base_is_gone = True
    row_step = 1

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        return self, {}

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`: zeros."""
        return torch.zeros(shape)

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`: no tensor."""
        return {}

    def nominal_bits(self, shape: Shape) -> int:
        """None."""
        return 0

    def macs(self, shape: Shape) -> int:
        """None."""
        return 0

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """Zeros, (..., m), without a product."""
        return x.new_zeros(*x.shape[:-1], shape[0])
