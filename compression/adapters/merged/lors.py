"""LoRA that keeps a sparse base sparse."""

from __future__ import annotations

from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.merged.latent import Latent, LatentLayer
from compression.kinds import bare
from compression.layers import packed_of
from compression.methods.base import CompressedWeight, Method


class MaskedLayer(LatentLayer):
    """The delta of a latent weight under the mask of its zeros."""

    def delta(self) -> Tensor:
        """``[W != 0] s B A``: the mask follows from the base, and is not kept."""
        mask: Tensor = bare(self).weight != 0
        return super().delta() * mask

    def pack(self, weight: Tensor) -> CompressedWeight:
        """See :meth:`LatentLayer.pack`: other values at the base's own positions."""
        packed = packed_of(self.base_layer)
        return self.own.compress(weight) if packed is None else packed.refilled(weight)


@ADAPTERS.register("lors")
class Lors(Latent):
    """LoRS: ``y = (W + M * (alpha / r) B A) x`` with ``M = [W != 0]`` of the sparse base W.

    Zeros stay zero, so the delta ends in the values that the base stores anyway: the file has no
    adapter. What is computed with is what is stored, in float16 too where the base's values are;
    gradients pass over the rounding. B (out, r) starts at 0 and A (r, in) at random. Methods:
    ``none`` and those that keep values at positions; in a chain the values are packed again.

    Stored bytes: 0, beside the base's own.

    The published start from a gradient, and the recomputing that saves memory in training, are left
    out: a float32 copy of the layer's weight is held while it is trained.

    Source: LoRS, catalogue 001-161.
    """

    catalogue_id = "001-161"
    layer = MaskedLayer

    def problem(self, method: Method) -> str | None:
        """See :meth:`Latent.problem`."""
        if method.refills:
            return None
        return "which has no zeros to keep: quantized_merge packs a delta with the weight"

    def latent(self, base: nn.Module, start: AdapterStart) -> Tensor:
        """See :meth:`Latent.latent`: the sparse base."""
        weight: Tensor = base.weight  # type: ignore[assignment]
        return weight
