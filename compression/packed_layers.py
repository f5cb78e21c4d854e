"""Layers that keep their weight packed and compute with it as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compression.kernels import ReadyWeight, prepared
from compression.kinds import bare
from compression.layers import install, packed_of
from compression.methods.base import CompressedWeight
from compression.registry import InvalidSetting
from compression.rules import compression_of


class PackedLayer(nn.Module):
    """What a layer becomes whose weight stays packed. Made by :func:`keep_packed`, in place.

    ``weight`` is decoded each time that it is read, as by DoRA: that is held as long as the reader
    holds it. Where a gradient has to pass through the layer it computes with the decoded weight.
    Numbers are float32 within, and leave in the dtype of the inputs.
    """

    stands_for: ClassVar[type[nn.Module]]
    """The class that it was, and is to everything that asks for its kind."""
    packed: ReadyWeight
    like: Tensor
    """Nothing, of the dtype and on the device of the weight that it stands for."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Asked for a new layer, as PEFT asks ``type(layer)``: an ordinary one; else a copy."""
        return cls.stands_for(*args, **kwargs) if args or kwargs else super().__new__(cls)

    weight: Any = property(lambda self: self.packed.dense().to(self.like), doc="Decoded now.")

    def passes_gradient(self, x: Tensor) -> bool:
        """Whether what is computed of x will be differentiated."""
        return torch.is_grad_enabled() and x.requires_grad

    def finished(self, found: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """A kernel's float32 with the bias, in the dtype of the inputs."""
        return (found if bias is None else found + bias.float()).to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.like.device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.like.device != before:  # another kernel may be the one to take it there
            self.packed = prepared(_plain(self.packed), self)
        return self


class PackedLinear(PackedLayer, nn.Linear):
    """A Linear on a packed weight."""

    stands_for = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """``x W^T + b``."""
        if self.passes_gradient(input):
            return F.linear(input, self.weight, self.bias)
        return self.finished(self.packed.linear(input.float()), self.bias, input.dtype)


class PackedConv2d(PackedLayer, nn.Conv2d):
    """A Conv2d on a packed weight."""

    stands_for = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        """The convolution with the weight, and the bias."""
        if self.passes_gradient(input):
            found: Tensor = self._conv_forward(input, self.weight, self.bias)
            return found
        bias = None if self.bias is None else self.bias[:, None, None]
        return self.finished(self.packed.convolution(self, input.float()), bias, input.dtype)


class PackedEmbedding(PackedLayer, nn.Embedding):
    """An Embedding on a packed table."""

    stands_for = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:
        """The rows of ``input``."""
        found = self.packed.lookup(input)
        return found.to(self.like.dtype)


_CLASSES: dict[type[nn.Module], type[PackedLayer]] = {
    kind.stands_for: kind for kind in (PackedLinear, PackedConv2d, PackedEmbedding)
}


@torch.no_grad()
def keep_packed(model: nn.Module) -> nn.Module:
    """Drop the decoded weight of every compressed layer, in place: it computes with packed ones.

    Outputs are those of the decoded weights up to the order of sums. Nothing happens to layers
    that are dense.

    Raises:
        InvalidSetting: an Embedding with ``max_norm``, which would change its table as it is read.
    """
    layers = {name: bare(model.get_submodule(name)) for name in compression_of(model).layers}
    compressed = {name: layer for name, layer in layers.items() if packed_of(layer) is not None}
    errors = [
        f"'{name}': an Embedding with max_norm changes its table, which cannot stay packed"
        for name, layer in compressed.items()
        if getattr(layer, "max_norm", None) is not None
    ]
    if errors:
        raise InvalidSetting(errors)
    for layer in compressed.values():
        _keep_packed(layer)
    return model


def _keep_packed(layer: Any) -> None:
    packed = packed_of(layer)
    if packed is None or isinstance(layer, PackedLayer):
        return
    like = layer.weight.new_empty(0)
    ready = prepared(packed, layer)
    del layer.weight
    layer.__class__ = _CLASSES[type(layer)]
    layer.register_buffer("like", like, persistent=False)
    layer.packed = ready


def decode_packed(layer: Any) -> None:
    """The inverse of :func:`keep_packed`, of one layer; any other is left as it is."""
    if not isinstance(layer, PackedLayer):
        return
    weight, packed = layer.weight, _plain(layer.packed)
    del layer.like, layer.packed
    layer.__class__ = layer.stands_for  # type: ignore[assignment]
    layer.weight = nn.Parameter(weight, requires_grad=False)
    install(layer, packed)


def _plain(packed: CompressedWeight) -> CompressedWeight:
    return CompressedWeight(packed.method, packed.shape, packed.state())
