"""Compressed layers: ordinary ``nn.Linear`` and ``nn.Conv2d`` with a packed weight inside.

A layer is compressed in place: its ``weight`` becomes a buffer decoded once from a submodule
``packed`` and left out of the state dict, its bias stays. The class stays ``nn.Linear`` or
``nn.Conv2d`` because PEFT builds the factors of a convolution by calling ``type(layer)``, and
because everything that takes the dense layer then takes the compressed one.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from compression.kinds import bare
from compression.methods.base import CompressedWeight


def packed_of(module: nn.Module) -> CompressedWeight | None:
    """The packed weight of a compressed layer; None for any other module."""
    packed = bare(module)._modules.get("packed")
    return packed if isinstance(packed, CompressedWeight) else None


@torch.no_grad()
def install(layer: nn.Module, packed: CompressedWeight) -> None:
    """Make a dense layer a compressed one, in place.

    Raises:
        ValueError: the weight's shape is another.
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if tuple(weight.shape) != packed.shape:
        raise ValueError(f"weight is {tuple(weight.shape)}, packed for {packed.shape}")
    packed.to(weight.device)
    decoded = packed.dense().to(weight.dtype).contiguous()
    del layer.weight
    layer.register_buffer("weight", decoded, persistent=False)
    layer.packed = packed
    if packed.method.base_is_gone and isinstance(layer, nn.Linear):
        # No product with zeros.
        layer.forward = partial(_bias_alone, layer)  # type: ignore[method-assign]


def _bias_alone(layer: nn.Linear, x: Tensor) -> Tensor:
    """The output (..., m) of a layer without a weight."""
    shape = (*x.shape[:-1], layer.out_features)
    if layer.bias is None:
        return x.new_zeros(shape)
    mixed = torch.is_autocast_enabled(x.device.type)  # where a product would be in half precision
    dtype = torch.get_autocast_dtype(x.device.type) if mixed else layer.bias.dtype
    # Not a view of the bias: what comes next may add to it in place.
    return layer.bias.to(dtype).expand(shape).clone()
