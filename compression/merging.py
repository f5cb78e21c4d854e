"""Merging adapters into the weights under them, where the stored form survives it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from compression.adapters import ADAPTERS, Shipped
from compression.kinds import bare
from compression.layers import install
from compression.methods import Method, NoMethod
from compression.methods.base import CompressedWeight, Shape
from compression.methods.chain import Chain
from compression.model import finalize
from compression.one_layer import put
from compression.packed_layers import decode_packed
from compression.registry import InvalidSetting
from compression.rules import LayerEntry, compression_of
from compression.stored import as_shipped, shipped, told

AT_ONCE = 1024
"""Inputs that a layer is asked about at once."""


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Put every adapter into the weight under it, in place; nothing is trainable then.

    A delta can be added to a dense weight. Adapters that are packed with the weight (``lors``,
    ``quantized_merge``) are in it already. Outputs are the same, up to the rounding of
    ``W + s B A``, and the merged model computes, is saved and is loaded without adapters.

    Returns:
        The same model.

    Raises:
        InvalidSetting: layers whose stored form would not survive it, each with what to use
            instead; the model is left as it was.
    """
    done = compression_of(model)
    entries = {name: entry for name, entry in done.layers.items() if entry.adapted}
    if errors := [text for name in entries for text in _problems(model, name, entries[name])]:
        raise InvalidSetting(errors)
    finalize(model)
    after = as_shipped(model)
    weights = {name: _weight(model, name, ships) for name, ships in shipped(model).items()}
    for name, weight in weights.items():
        layer = bare(model.get_submodule(name))
        decode_packed(layer)
        model.set_submodule(name, layer)
        if isinstance(weight, CompressedWeight):
            install(layer, weight)
        else:
            put(layer, weight)
    layers = {name: LayerEntry(entry.method) for name, entry in after.layers.items()}
    model.compression = replace(after, layers=told(layers, after.rest))  # type: ignore[assignment]
    return model.requires_grad_(False)


def _weight(model: nn.Module, name: str, ships: Shipped) -> Tensor | CompressedWeight:
    """The layer's weight with the adapter in it."""
    layer = model.get_submodule(name)
    if ships.packed is None:
        return as_weight(layer) if ships.adapter else bare(layer).weight.clone()
    return ships.packed.dense() if isinstance(ships.packed.method, NoMethod) else ships.packed


def as_weight(layer: nn.Module) -> Tensor:
    """The weight of an adapted layer that is linear in x: what it answers to each input alone."""
    base = bare(layer)
    weight, bias = base.weight, base.bias
    ones = torch.eye(weight[0].numel()).to(weight)
    base.bias = None
    try:
        parts = torch.tensor_split(ones, -(-len(ones) // AT_ONCE))
        found = [_asked(layer, part.view(-1, *weight.shape[1:])) for part in parts]
    finally:
        base.bias = bias
    return torch.cat(found).T.reshape(weight.shape)


def _asked(layer: nn.Module, inputs: Tensor) -> Tensor:
    """The outputs (k, m) for inputs (k, n), or of the size of the kernel (k, c, kh, kw)."""
    base = bare(layer)
    if not isinstance(base, nn.Conv2d):
        found: Tensor = layer(inputs)
        return found
    before = _padding(base)
    at = [-(-pad // step) for pad, step in zip(before, base.stride, strict=True)]
    # Where the kernel lies on no padding. All groups are asked at once, each answers for itself.
    span, size = [], []
    for k, pad, index, step, gap in zip(
        base.kernel_size, before, at, base.stride, base.dilation, strict=True
    ):
        start = index * step - pad
        span.append(slice(start, start + (k - 1) * gap + 1, gap))
        size.append(start + (k - 1) * gap + 1 + pad)
    asked = inputs.new_zeros(len(inputs), base.groups, inputs.shape[1], *size)
    asked[:, :, :, span[0], span[1]] = inputs.unsqueeze(1)
    answer: Tensor = layer(asked.flatten(1, 2))
    return answer[:, :, at[0], at[1]]


def _padding(base: nn.Conv2d) -> tuple[int, ...]:
    """Rows and columns of padding before the first of an image."""
    if base.padding == "same":
        sizes = zip(base.kernel_size, base.dilation, strict=True)
        return tuple((k - 1) * gap // 2 for k, gap in sizes)
    return (0, 0) if base.padding == "valid" else tuple(map(int, base.padding))


def _problems(model: nn.Module, name: str, entry: LayerEntry) -> Iterator[str]:
    method, adapter = entry.method, entry.adapter
    if adapter.merges:
        return
    if not isinstance(method, NoMethod):
        shape = tuple(bare(model.get_submodule(name)).weight.shape)
        why = f"cannot be merged into {method.name}: {_fate(method, shape)}"
    elif not adapter.additive:
        why = "adds no delta to the weight"
    else:
        return
    yield f"'{name}': adapter {adapter.name} {why}; {_instead(model, name, entry)}"


def _fate(method: Method, shape: Shape) -> str:
    """What would become of the form of a weight of this shape, under a resolved method."""
    first = method.first if isinstance(method, Chain) else method
    if first.base_is_gone:
        return "it keeps no weight"
    if first.refills:
        return "the delta would fill its zeros"
    if type(first).linear is not Method.linear:
        return "the sum would be a dense matrix"
    if first.nominal_bits(shape) < 8 * torch.float32.itemsize * math.prod(shape):
        return "the sum leaves its grid"
    return "its form cannot hold the sum"


def _instead(model: nn.Module, name: str, entry: LayerEntry) -> str:
    """The adapters that would merge there."""
    layers = {name: model.get_submodule(name)}
    able = [
        adapter
        for adapter in ADAPTERS
        if ADAPTERS[adapter].merges
        and not list(ADAPTERS.build(adapter).refusals(layers, entry.rank, [entry.method]))
    ]
    if not able:
        return "keep the adapter beside the weight"
    return f"train {' or '.join(able)} in its place, or keep the adapter beside the weight"
