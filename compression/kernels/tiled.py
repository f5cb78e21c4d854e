"""Rows decoded, used and dropped, some at a time: for every form."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from compression.kernels.base import KERNELS, Kernel, ReadyWeight
from compression.methods.base import CompressedWeight


@KERNELS.register("tiled")
class Tiled(Kernel):
    """A block of rows is decoded, multiplied by, and dropped; takes everything, on any device.

    Scratch: a block of about :data:`~compression.kernels.base.TILE` weights while it is decoded;
    the whole weight for forms that cannot be decoded by rows, and the decoded slots of chains.
    """

    last: ClassVar[bool] = True

    def refusal(self, weight: CompressedWeight, layer: nn.Module) -> str | None:
        """See :meth:`Kernel.refusal`: none."""
        return None

    def prepare(self, weight: CompressedWeight) -> ReadyWeight:
        """See :meth:`Kernel.prepare`: as it is."""
        return ReadyWeight(weight, self.name)
