"""PEFT's DoRA layers with row norms kept above zero. Import late: it imports PEFT.

DoRA divides by the norm of each row of ``W + B A``, and sparse bases do have all-zero rows. With a
floor on norm and magnitude alike such a row starts with factor 1, as any other.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.dora import DoraConv2dLayer, DoraLinearLayer
from torch import Tensor, nn

NORM_FLOOR = 1e-6


class _Floored:
    def get_weight_norm(self, *args: Any, **kwargs: Any) -> Tensor:
        """PEFT's row norms of base + scaling * delta, at least :data:`NORM_FLOOR`."""
        norms: Tensor = super().get_weight_norm(*args, **kwargs)  # type: ignore[misc]
        return norms.clamp_min(NORM_FLOOR)


class FlooredDoraLinear(_Floored, DoraLinearLayer):
    """DoRA on a Linear."""


class FlooredDoraConv2d(_Floored, DoraConv2dLayer):
    """DoRA on a Conv2d."""


@torch.no_grad()
def install_magnitude(wrapped: Any, name: str) -> None:
    """Replace PEFT's DoRA module of a wrapped layer; its magnitude is the current row norms."""
    weight = wrapped.base_layer.weight
    kind = FlooredDoraConv2d if isinstance(wrapped.base_layer, nn.Conv2d) else FlooredDoraLinear
    module = kind(fan_in_fan_out=False)
    delta = module.get_lora_weight(wrapped.lora_A[name], wrapped.lora_B[name])
    norms = module.get_weight_norm(weight, delta.view_as(weight), wrapped.scaling[name])
    module.weight = nn.Parameter(norms)
    wrapped.lora_magnitude_vector[name] = module
