"""Training under compression: the delta is added before the weight is packed."""

from __future__ import annotations

from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.merged.latent import Latent, LatentLayer
from compression.methods.base import CompressedWeight, Method
from compression.registry import InvalidSetting


class RepackedLayer(LatentLayer):
    """The layer's own method packs weight and delta together."""

    def own_kept(self) -> int:
        """See :meth:`LatentLayer.own_kept`."""
        density = self.own.density(tuple(self.latent.shape))
        return density[0] if density else 0

    def pack(self, weight: Tensor) -> CompressedWeight:
        """See :meth:`LatentLayer.pack`."""
        kept = int(self.kept)
        return (self.own if kept == self.own_kept() else self.own.keeping(kept)).compress(weight)


@ADAPTERS.register("quantized_merge")
class QuantizedMerge(Latent):
    """EfficientDM: ``y = C(W + (alpha / r) B A) x``, C the layer's own method, W the dense weight.

    C works in every step, which then takes as long as compressing does (``svd``: many times what
    training takes), and its gradient is taken to be the identity. The start is C(W). The
    file holds ``C(W + s B A)`` and no adapter: a quantised layer stays on its grid, a sparse one
    sparse. Under ``none`` it is LoRA, merged. B (out, r) starts at 0 and A (r, in) at random.
    Methods: those that need the weight alone, whatever they make of it.

    Stored bytes: 0, beside those of C.

    Published for low-bit diffusion models. In the place of its learned scales C fits its own anew
    in each step; activations are not quantised; loss ``distil`` is its data-free distillation, on
    the task's data. W is held in float32 while it is trained.

    Source: EfficientDM, arXiv 2310.03270, catalogue 001-135.
    """

    catalogue_id = "001-135"
    layer = RepackedLayer

    def problem(self, method: Method) -> str | None:
        """See :meth:`Latent.problem`."""
        if method.needs:
            needs = ", ".join(sorted(method.needs))
            return f"which would have to be calibrated ({needs}) in every step: use lora"
        if method.sequential:
            return "which takes one layer after the other, not all in every step: use lora"
        return None

    def latent(self, base: nn.Module, start: AdapterStart) -> Tensor:
        """See :meth:`Latent.latent`: the dense weight.

        Raises:
            InvalidSetting: it is not given.
        """
        if start.dense is None:
            raise InvalidSetting([f"{self.name}: needs the weight as it was before compression"])
        return start.dense
