"""The tensors of a model as its file holds them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compression.container import ArtifactError
from compression.layers import packed_of
from compression.methods import Method, NoMethod
from compression.methods.base import Part
from compression.rules import Compression, compression_of, shapes


class Stored(NamedTuple):
    """A tensor as it is written, and the part of the file that it counts under."""

    tensor: Tensor
    part: Part


def stored_tensors(model: nn.Module) -> dict[str, Stored]:
    """Every tensor of the file by name: packed weights, adapters, and all that is left as it is.

    A tensor that occurs under several names is there once, under the first.

    Raises:
        ArtifactError: the model computes with other values than the file would hold.
    """
    done = compression_of(model)
    packed = packed_slots(model, done.layers)
    whole = {f"{name}.weight" for name in done.layers}
    seen: set[Hashable] = set()
    found: dict[str, Stored] = {}
    for key, tensor in model.state_dict().items():
        name = dense_name(key, done)
        if name is None or identity(tensor) in seen:
            continue
        seen.add(identity(tensor))
        if name in packed:
            name, part = packed[name]
            found[name] = Stored(tensor, part)
        elif name in whole or not tensor.is_floating_point():
            found[name] = Stored(tensor, "untouched")
        else:
            found[name] = Stored(_rest(tensor, done.rest, name), "untouched")
    for adapter, entries in done.adapted().items():
        live = adapter.parameters(model, entries)
        for key, slot in adapter.layout(shapes(model, entries)).items():
            values = live[key].detach().reshape(slot.shape)
            found[key] = Stored(_exactly(values, slot.dtype, key), slot.part)
    return found


def dense_name(key: str, done: Compression) -> str | None:
    """A state-dict key without the adapter's wrapper; None for the adapter's own tensors."""
    for layer, entry in done.layers.items():
        if entry.rank and key.startswith(f"{layer}."):
            inner = key.removeprefix(f"{layer}.")
            if not inner.startswith("base_layer."):
                return None
            return f"{layer}.{inner.removeprefix('base_layer.')}"
    return key


def packed_slots(model: nn.Module, names: Iterable[str]) -> dict[str, tuple[str, Part]]:
    """Name in the file and part of every packed tensor, by its key in the dense state dict."""
    layers = ((name, packed_of(model.get_submodule(name))) for name in names)
    return {
        f"{name}.packed.{slot}": (f"{name}.{slot}", part)
        for name, packed in layers
        if packed is not None
        for slot, (_, _, part) in packed.method.layout(packed.shape).items()
    }


def identity(tensor: Tensor) -> Hashable:
    """Equal for tensors that are one and the same memory."""
    if not tensor.numel():
        return object()
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _rest(tensor: Tensor, rest: Method, name: str) -> Tensor:
    if isinstance(rest, NoMethod):
        return tensor
    return _exactly(tensor, rest.layout(tuple(tensor.shape))["weight"].dtype, name)


def _exactly(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    stored = values.to(dtype)
    if stored.dtype != values.dtype and not torch.equal(stored.to(values.dtype), values):
        raise ArtifactError(
            f"'{name}' would change by being stored as {dtype}: round the model with "
            "compression.finalize(model) before scoring and saving it"
        )
    return stored
