"""Compressing a model: layers into place, adapters on top, and rounding to what is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from compression.adapters import Adapter, AdapterStart, NoAdapter
from compression.layers import install
from compression.methods import Method, NoMethod
from compression.methods.base import matrix_shape
from compression.registry import InvalidSetting
from compression.rules import (
    Compression,
    LayerEntry,
    Rule,
    assign,
    check,
    compression_of,
    leaves_alone,
    shapes,
    target_layers,
)
from compression.stats import LayerStats
from compression.weights import CompressedWeight

__all__ = [
    "Compression",
    "LayerEntry",
    "Rule",
    "as_saved",
    "compress_model",
    "compression_of",
    "finalize",
    "target_layers",
    "trainable",
]


def compress_model(
    model: nn.Module,
    rules: Sequence[Rule],
    targets: Sequence[str],
    stats: Mapping[str, LayerStats] | None = None,
    generator: torch.Generator | None = None,
    rest: Method | None = None,
) -> nn.Module:
    """Compress a model in place and put its adapters on; only these are left trainable.

    The first rule whose pattern matches a target layer wins; targets under no rule, and those
    under method none without an adapter, stay as they are.

    Args:
        model: dense; the caller's own copy.
        rules: by pattern over full dotted names.
        targets: patterns of the layers that may be compressed.
        stats: of the layers' inputs, by name, for methods and inits that use them.
        generator: of the random entries of adapters.
        rest: ``none`` or ``cast``, for the floating-point tensors that no rule compresses (biases,
            norms, buffers, other layers). The model computes with the cast values.

    Returns:
        The same model, with what was done under ``model.compression``.

    Raises:
        InvalidSetting: every error that can be told before the work; then the first of the work,
            naming its layer.
    """
    rest = rest or NoMethod()
    layers = target_layers(model, targets)
    assigned = assign(rules, layers)
    check(model, assigned, layers, rest)
    model.requires_grad_(False)
    entries = {name: LayerEntry(NoMethod()) for name in layers}
    notes: list[str] = []
    starts: dict[Adapter, dict[str, AdapterStart]] = {}
    for rule, names in assigned.items():
        plan = rule.methods[0].plan({name: layers[name] for name in names}, stats or {})
        if plan.edits:
            raise InvalidSetting([f"{rule.methods[0].name}: structure edits cannot be saved yet"])
        for name in names:
            with _naming(name):
                entry, start, remarks = _compress_layer(
                    layers[name], rule, plan.specs[name], (stats or {}).get(name), generator
                )
            entries[name] = entry
            notes.extend(f"{name}: {remark}" for remark in remarks)
            if start:
                starts.setdefault(rule.adapter, {})[name] = start
    _round_rest(model, set(layers), rest)
    for adapter, its_starts in starts.items():
        adapter.attach(model, its_starts)
    if isinstance(rest, NoMethod):  # else the table must say which layers the rest leaves out
        entries = {n: e for n, e in entries.items() if e.rank or not isinstance(e.method, NoMethod)}
    model.compression = Compression(entries, rest, tuple(notes))  # type: ignore[assignment]
    return model


@contextlib.contextmanager
def _naming(layer: str) -> Iterator[None]:
    try:
        yield
    except InvalidSetting as error:
        raise InvalidSetting(f"{layer}: {text}" for text in error.errors) from error


@torch.no_grad()
def _compress_layer(
    layer: nn.Module,
    rule: Rule,
    method: Method,
    stats: LayerStats | None,
    generator: torch.Generator | None,
) -> tuple[LayerEntry, AdapterStart | None, list[str]]:
    if leaves_alone(rule):
        return LayerEntry(method), None, []
    weight: Tensor = layer.weight.detach()
    notes = []

    def compress(values: Tensor) -> CompressedWeight:
        return method.compress(values, stats)

    if isinstance(rule.adapter, NoAdapter):
        base, start, rank, alpha = compress(weight), None, 0, 0.0
    else:
        rank = min(rule.rank, *matrix_shape(tuple(weight.shape)))
        if rank < rule.rank:
            notes.append(f"rank {rule.rank} clamped to {rank}")
        alpha = float(rank if rule.alpha is None else rule.alpha * rank / rule.rank)
        base, b, a = rule.init.start(weight.float(), compress, rank, stats, generator)
        start = AdapterStart(b, a, alpha)
    if isinstance(base.method, NoMethod):
        weight.copy_(base.dense())  # an init may have moved a part of W into the adapter
    else:
        install(layer, base)
    if base.stored_bytes() > weight.nbytes:
        notes.append(
            f"{base.method.name} stores {base.stored_bytes()} bytes, dense {weight.nbytes}"
        )
    return LayerEntry(base.method, rule.adapter, rank, alpha), start, notes


@torch.no_grad()
def _round_rest(model: nn.Module, targets: set[str], rest: Method) -> None:
    """Replace what no rule compresses by what will be stored of it."""
    if isinstance(rest, NoMethod):
        return
    for key, tensor in model.state_dict().items():
        layer, _, name = key.removesuffix(".packed").rpartition(".")
        ours = name != "bias" and (layer in targets or layer.removesuffix(".packed") in targets)
        if not ours and tensor.is_floating_point():
            with _naming(key):
                tensor.copy_(rest.compress(tensor).dense())


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that recovery trains: those of the adapters."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _roundings(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Each adapter parameter that is stored in fewer bits, with the values stored."""
    for adapter, entries in compression_of(model).adapted().items():
        live = adapter.parameters(model, entries)
        for key, slot in adapter.layout(shapes(model, entries)).items():
            if slot.dtype != live[key].dtype:
                yield live[key], live[key].detach().to(slot.dtype).to(live[key].dtype)


@torch.no_grad()
def finalize(model: nn.Module) -> nn.Module:
    """Round the adapters to the values that their file will hold, in place.

    What is scored must be what is saved: score after this, or within :func:`as_saved`.
    """
    for parameter, stored in _roundings(model):
        parameter.copy_(stored)
    return model


@contextlib.contextmanager
def as_saved(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block the model computes with what is stored; then it is as it was."""
    before = [(parameter, parameter.detach().clone()) for parameter, _ in _roundings(model)]
    finalize(model)
    try:
        yield model
    finally:
        with torch.no_grad():
            for parameter, values in before:
                parameter.copy_(values)
