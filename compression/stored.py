"""The tensors of a model as its file holds them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compression.adapters import NoAdapter, Shipped
from compression.container import ArtifactError
from compression.kinds import bare
from compression.layers import packed_of
from compression.methods import Method, NoMethod
from compression.methods.base import CompressedWeight, Part, Slot
from compression.rules import Compression, LayerEntry, compression_of


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
    done, ships = compression_of(model), shipped(model)
    packed = packed_slots(model, done.layers)
    merged = {layer: own.packed for layer, own in ships.items() if own.packed is not None}
    replaced = {f"{layer}.weight" for layer in merged} | packed_slots(model, merged).keys()
    whole = {f"{name}.weight" for name in done.layers}
    seen: set[Hashable] = set()
    found: dict[str, Stored] = {}
    for key, tensor in model.state_dict().items():
        name = dense_name(key, done)
        if name is None or identity(tensor) in seen:
            continue
        seen.add(identity(tensor))
        if name in replaced:
            continue
        if name in packed:
            name, part = packed[name]
            found[name] = Stored(tensor, part)
        elif name in whole or not tensor.is_floating_point():
            found[name] = Stored(tensor, "untouched")
        else:
            found[name] = Stored(_rest(tensor, done.rest, name), "untouched")
    for layer, weight in merged.items():
        found |= _merged(layer, weight, bare(model.get_submodule(layer)).weight.dtype)
    stays = {layer: ships[layer] for layer in ships if ships[layer].adapter is not None}
    for adapter, entries in done.adapted().items():
        live = adapter.stored(model, [name for name in entries if name in stays])
        for key, slot in _layouts(model, {n: stays[n] for n in entries if n in stays}).items():
            if key in found:
                raise ArtifactError(f"'{key}' names a tensor of {adapter.name} and another one")
            values = live[key].detach().reshape(slot.shape)
            found[key] = Stored(_exactly(values, slot.dtype, key), slot.part)
    return found


def _merged(layer: str, packed: CompressedWeight, dtype: torch.dtype) -> dict[str, Stored]:
    """The tensors of a layer's weight with its adapter in it; dense, in the layer's own dtype."""
    if isinstance(packed.method, NoMethod):
        return {f"{layer}.weight": Stored(packed.dense().to(dtype), "untouched")}
    slots = packed.method.layout(packed.shape)
    return {f"{layer}.{n}": Stored(t, slots[n].part) for n, t in packed.state().items()}


def shipped(model: nn.Module) -> dict[str, Shipped]:
    """What is stored of each adapted layer, once settled."""
    return {
        name: entry.adapter.shipped(model, name, Shipped(entry.adapter, entry.rank, entry.alpha))
        for name, entry in compression_of(model).layers.items()
        if entry.adapted
    }


def as_shipped(model: nn.Module) -> Compression:
    """What the file says was done: with the ranks that are left, without what was merged."""
    done = compression_of(model)
    layers = dict(done.layers)
    for name, ships in shipped(model).items():
        method = ships.packed.method if ships.packed is not None else layers[name].method
        adapter = ships.adapter or NoAdapter()
        layers[name] = LayerEntry(method, adapter, ships.rank, ships.alpha)
    return replace(done, layers=told(layers, done.rest))


def told(layers: Mapping[str, LayerEntry], rest: Method) -> Mapping[str, LayerEntry]:
    """The layers that a file has to name: where others are cast, also those left as they were."""
    if not isinstance(rest, NoMethod):
        return layers
    return {n: e for n, e in layers.items() if e.adapted or not isinstance(e.method, NoMethod)}


def _layouts(model: nn.Module, layers: Mapping[str, Shipped]) -> dict[str, Slot]:
    """The adapters' slots, each adapter over all its layers."""
    found: dict[str, Slot] = {}
    for adapter in dict.fromkeys(ships.adapter for ships in layers.values() if ships.adapter):
        own = {name: ships for name, ships in layers.items() if ships.adapter == adapter}
        weights = {n: tuple(bare(model.get_submodule(n)).weight.shape) for n in own}
        found |= adapter.layout({name: (weights[name], own[name].rank) for name in own})
    return found


def dense_name(key: str, done: Compression) -> str | None:
    """A state-dict key without the adapter's wrapper; None for the adapter's own tensors."""
    for layer, entry in done.layers.items():
        if entry.adapted and key.startswith(f"{layer}."):
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
