"""Factors one after the other, without their product."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from compression.kernels.base import DECODING, KERNELS, Kernel, ReadyWeight, opened_by
from compression.kernels.convolving import convolve
from compression.kinds import kind_of
from compression.methods.base import CompressedWeight, Method
from compression.methods.low_rank.factors import Factors


@KERNELS.register("factored")
class Factored(Kernel):
    """The products that the form allows: two thin ones of low rank instead of a whole one.

    Linear layers of every method with a ``linear`` of its own; convolutions of L and R alone, as R
    with the layer's kernel and L as 1x1, in one group. Scratch: factors that are stored in float16
    or packed, in float32.
    """

    def refusal(self, weight: CompressedWeight, layer: nn.Module) -> str | None:
        """See :meth:`Kernel.refusal`."""
        first = opened_by(weight.method)
        if type(first).linear is Method.linear:
            return f"{first.name} has no factors"
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1:
                return "a convolution in groups would need the first factor for each"
            if not _is_pair(first, weight):
                return f"{first.name} is no pair of matrices"
        elif kind_of(layer) != "linear":
            return "rows are looked up, not multiplied"
        return None

    def prepare(self, weight: CompressedWeight) -> ReadyWeight:
        """See :meth:`Kernel.prepare`: as it is."""
        return FactoredWeight(weight, self.name)


def _is_pair(first: Method, weight: CompressedWeight) -> bool:
    return isinstance(first, Factors) and (
        type(first)._unfold is Factors._unfold and "left" in first.layout(weight.shape)
    )


class FactoredWeight(ReadyWeight):
    """See :class:`Factored`."""

    @property
    def scratch_bytes(self) -> int:
        """See :attr:`ReadyWeight.scratch_bytes`."""
        slots = opened_by(self.method).layout(self.shape).values()
        return DECODING * sum(math.prod(slot.shape) for slot in slots)

    def linear(self, x: Tensor) -> Tensor:
        """See :meth:`ReadyWeight.linear`."""
        return self.method.linear(x, self.state(), self.shape)

    def convolution(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """See :meth:`ReadyWeight.convolution`."""
        tensors = self.method.opened(self.state(), self.shape)[1]
        left, right = (tensors[name].float() for name in ("left", "right"))
        inside = convolve(layer, x, [right.view(-1, *self.shape[1:])])
        return F.conv2d(inside, left[:, :, None, None])
