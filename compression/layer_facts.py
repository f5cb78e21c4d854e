"""What is known of the layers of a saved model: settings, bytes, bits, error, work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compression.container import ArtifactError
from compression.methods import Method, NoMethod
from compression.methods.base import Part, Shape, matrix_shape
from compression.methods.chain import Chain
from compression.opened import UNTOUCHED, Layer, Opened
from compression.registry import Plugin


@dataclass(frozen=True)
class Facts:
    """One layer of a file; None for what the file does not tell, or what does not apply.

    ``bits`` and ``nominal_bits`` are those of the packed weight for each weight of the dense one,
    without the adapter, nominal ones of values alone. ``macs`` are for each output position, the
    adapter's among them. ``db`` is the error of the stored weight against the dense one,
    ``adapted_db`` that of the weight with the delta of the adapter.
    """

    name: str
    method: str
    adapter: str
    shape: Shape | None
    bits: float | None
    nominal_bits: float | None
    bytes: Mapping[Part, int]
    macs: int | None
    db: float | None = None
    adapted_db: float | None = None


@torch.no_grad()
def facts(layer: Layer, dense: Opened | None = None) -> Facts:
    """What is known of a layer, with its error where there is a dense file."""
    method, shape, count = layer.entry.method, layer.shape, math.prod(layer.shape or ())
    bits = nominal = work = None
    if shape is not None:
        plain = isinstance(method, NoMethod)
        stored = 8 * (layer.held["weight"].tensor.nbytes if plain else _nbytes(layer.packed))
        bits, nominal = stored / count, (stored if plain else method.nominal_bits(shape)) / count
        work = method.macs(shape)
        if layer.entry.adapted:
            work += layer.entry.adapter.macs(shape, layer.entry.rank)
    parts = {part for _, part in layer.held.values()}
    db, adapted_db = _errors(layer, dense) if dense is not None else (None, None)
    return Facts(
        layer.name,
        "-" if layer.entry is UNTOUCHED else method_text(method),
        adapter_text(layer),
        shape,
        bits,
        nominal,
        {part: layer.nbytes(part) for part in sorted(parts)},
        work,
        db,
        adapted_db,
    )


def _nbytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _errors(layer: Layer, dense: Opened) -> tuple[float | None, float | None]:
    """In dB, without and with the adapter's delta."""
    same = dense.layers.get(layer.name)
    truth, weight = same.weight() if same else None, layer.weight()
    if truth is None or weight is None or truth.numel() != weight.numel():
        return None, None  # cut by an edit of the structure, or of a shape that is unknown
    truth, weight, delta = truth.flatten(1), weight.flatten(1), layer.delta()
    db = decibels(truth, weight)
    return db, None if delta is None else decibels(truth, weight + delta)


def decibels(weight: Tensor, other: Tensor) -> float:
    """``20 log10(||W - W^|| / ||W||)``: -inf for equal ones, inf where only W is zero."""
    error, norm = float((weight - other).double().norm()), float(weight.double().norm())
    if not error:
        return -math.inf
    return 20 * math.log10(error / norm) if norm else math.inf


def method_text(method: Method) -> str:
    """A method with what is set of it, a chain with plus signs."""
    if isinstance(method, Chain):
        then = dict.fromkeys(map(method_text, method.then.values()))
        return "+".join([method_text(method.first), *then])
    return _plugin(method)


def adapter_text(layer: Layer) -> str:
    """A layer's adapter with what is set of it, and its rank."""
    adapter, rank = layer.entry.adapter, layer.entry.rank
    if not layer.entry.adapted:
        return "-"
    return f"{_plugin(adapter)} {rank}" if adapter.ranked else _plugin(adapter)


def _plugin(plugin: Plugin) -> str:
    settings = ",".join(f"{name}={value}" for name, value in plugin.args().items())
    return f"{plugin.name}({settings})" if settings else plugin.name


@dataclass(frozen=True)
class Difference:
    """A layer in two files; ``db`` is the difference of the stored weights over the first one.

    ``what`` says in which respects they differ: none of them, in equal layers.
    """

    name: str
    what: tuple[str, ...]
    bytes: tuple[int, int]
    db: float | None


@torch.no_grad()
def differences(one: Opened, other: Opened) -> Iterator[Difference]:
    """All layers of two files of one architecture.

    Raises:
        ArtifactError: layers that are in one only, or of two shapes, unless structure edits may
            have taken them away; each by its name.
    """
    if problems := list(_mismatches(one, other)):
        raise ArtifactError("\n".join(problems))
    for name, layer in one.layers.items():
        if name in other.layers:
            yield _difference(layer, other.layers[name])


def _mismatches(one: Opened, other: Opened) -> Iterator[str]:
    edited = one.header.compression.edits or other.header.compression.edits
    for name in () if edited else dict.fromkeys((*one.layers, *other.layers)):
        for file in (one, other):
            if name not in file.layers:
                yield f"{file.source}: has no layer '{name}': another architecture"
        shapes = [f.layers[name].shape for f in (one, other) if name in f.layers]
        known = [matrix_shape(shape) for shape in shapes if shape is not None]
        if len(set(known)) > 1:
            sizes = " and ".join(f"{rows}x{columns}" for rows, columns in known)
            yield f"{other.source}: layer '{name}' has sizes {sizes}: another architecture"


def _difference(one: Layer, other: Layer) -> Difference:
    what = []
    if one.entry.method != other.entry.method:
        what.append(f"method {method_text(one.entry.method)} -> {method_text(other.entry.method)}")
    if adapter_text(one) != adapter_text(other) or one.entry.alpha != other.entry.alpha:
        texts = (f"{adapter_text(x)} alpha {x.entry.alpha:g}" for x in (one, other))
        what.append("adapter " + " -> ".join(texts))
    if not what and not _equal(one, other):
        what.append("values")
    db = None
    if what:
        first, second = one.weight(), other.weight()
        if first is not None and second is not None and first.numel() == second.numel():
            db = decibels(first.flatten(1), second.flatten(1))
    return Difference(one.name, tuple(what), (one.nbytes(), other.nbytes()), db)


def _equal(one: Layer, other: Layer) -> bool:
    return one.held.keys() == other.held.keys() and all(
        held.tensor.dtype == other.held[name].tensor.dtype
        and torch.equal(held.tensor, other.held[name].tensor)
        for name, held in one.held.items()
    )
