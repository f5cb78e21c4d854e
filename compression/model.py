"""Compressing a model: layers into place, adapters on top, and rounding to what is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from compression.calibration import Calibration
from compression.checking import check, shared_weights
from compression.edits import EDITS, Edit
from compression.kinds import bare
from compression.methods import Method, NoMethod
from compression.one_layer import Result, Work
from compression.planning import Planning
from compression.registry import naming
from compression.rules import (
    Compression,
    LayerEntry,
    Rule,
    assign,
    compression_of,
    leaves_alone,
    shapes,
    target_layers,
)
from compression.stats import LayerStats
from compression.stored import packed_slots

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
    untie: bool = False,
    calibration: Calibration | None = None,
) -> nn.Module:
    """Compress a model in place and put its adapters on; only these are left trainable.

    The first rule whose pattern matches a target layer wins; targets under no rule, and those
    under method none without an adapter, stay as they are. Structure edits come first; targets
    that they remove are gone. Then the layers, in model order.

    Args:
        model: dense; the caller's own copy.
        rules: by pattern over full dotted names.
        targets: patterns of the layers that may be compressed.
        stats: of the layers of the dense model, by name, for methods and inits that use them.
        generator: of the random entries of adapters.
        rest: ``none`` or ``cast``, for all other floating-point tensors (biases, norms, buffers,
            other layers). The model computes with the cast values.
        untie: give each changed layer that shares its weight one of its own, which the file holds
            too, instead of refusing it.
        calibration: examples to take ``stats`` from where they are not given, and for what looks
            at the model as compressed so far.

    Returns:
        The same model, with what was done under ``model.compression``.

    Raises:
        InvalidSetting: all errors that show before the work, or the first of it, with its layer.
    """
    rest = rest or NoMethod()
    layers = target_layers(model, targets)
    assigned = assign(rules, layers)
    own = _untie(model, assigned, layers) if untie else ()
    check(model, assigned, layers, rest)
    planning = Planning(model, assigned, layers, stats, calibration, edits=own)
    specs = planning.run()
    model.requires_grad_(False)
    results = _compress_layers(planning, specs, generator)
    done = _done(planning, results, rest)
    _round_rest(model, done.layers, rest)
    _attach(model, results, generator)
    model.compression = done  # type: ignore[assignment]
    return model


def _compress_layers(
    planning: Planning, specs: Mapping[str, Method], generator: torch.Generator | None
) -> list[Result]:
    """Layer after layer, in model order."""
    rule_of = {name: rule for rule, names in planning.assigned.items() for name in names}
    ranks = {n: r for rule in planning.assigned for n, r in planning.ranks(rule).items()}
    work = Work(planning.model, planning.stats or {}, generator, planning.calibration)
    sequential = any(method.sequential for method in specs.values())
    with work.as_adapted() if sequential else contextlib.nullcontext():
        return [
            work.compress(name, layer, rule_of[name], specs[name], ranks.get(name, 0))
            for name, layer in planning.layers.items()
            if name in rule_of
        ]


def _done(planning: Planning, results: Sequence[Result], rest: Method) -> Compression:
    entries = dict.fromkeys(planning.layers, LayerEntry(NoMethod()))
    entries |= {result.name: result.entry for result in results}
    if isinstance(rest, NoMethod):  # else the table must say which layers the rest leaves out
        entries = {
            n: e for n, e in entries.items() if e.adapted or not isinstance(e.method, NoMethod)
        }
    notes = [f"edit: {edit}" for edit in planning.edits] + planning.notes
    notes += [f"{result.name}: {note}" for result in results for note in result.notes]
    return Compression(entries, rest, planning.edits, tuple(notes))


def _attach(model: nn.Module, results: Sequence[Result], generator: torch.Generator | None) -> None:
    """Put each adapter on all its layers at once; what it draws follows the generator."""
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))
        for adapter in dict.fromkeys(result.entry.adapter for result in results):
            starts = {r.name: r.start for r in results if r.start and r.entry.adapter == adapter}
            adapter.attach(model, starts)


def _untie(
    model: nn.Module, assigned: Mapping[Rule, Sequence[str]], layers: Mapping[str, nn.Module]
) -> tuple[Edit, ...]:
    """A weight of its own for each layer that will change and shares one."""
    shared = shared_weights(model)
    edits = tuple(
        EDITS.build("untie", {"module": name})
        for rule, names in assigned.items()
        for name in names
        if id(bare(layers[name]).weight) in shared and not leaves_alone(rule.method, rule.adapter)
    )
    for edit in edits:
        edit.apply(model)
    return edits


@torch.no_grad()
def _round_rest(model: nn.Module, entries: Mapping[str, LayerEntry], rest: Method) -> None:
    """Replace what no rule compresses by what will be stored of it."""
    if isinstance(rest, NoMethod):
        return
    kept = {f"{name}.weight" for name in entries} | packed_slots(model, entries).keys()
    for key, tensor in model.state_dict().items():
        if key not in kept and tensor.is_floating_point():
            with naming(key):
                tensor.copy_(rest.compress(tensor).dense())


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that recovery trains: of adapters, and biases of layers without a base."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adapter_tensors(model: nn.Module) -> list[Tensor]:
    """All that training may change, in a fixed order: of adapters also what is no parameter."""
    live: list[Tensor] = [*trainable(model)]
    for adapter, entries in compression_of(model).adapted().items():
        live += adapter.parameters(model, entries).values()
    # By identity, of tensors that are all still there: one that is made anew has an id of its own.
    return [tensor.detach() for tensor in {id(tensor): tensor for tensor in live}.values()]


def trained_rest(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained beside the adapters' own: biases of layers without a base, norms; by name.

    Nothing in a model without adapters, whose parameters nobody has frozen.
    """
    adapted = compression_of(model).adapted()
    if not adapted:
        return {}
    own = {
        id(tensor)
        for adapter, entries in adapted.items()
        for tensor in adapter.parameters(model, entries).values()
    }
    named = model.named_parameters()
    return {n: p for n, p in named if p.requires_grad and id(p) not in own}


@torch.no_grad()
def finalize(model: nn.Module) -> nn.Module:
    """Round the adapters to the values that their file will hold, in place.

    What is scored must be what is saved: score after this, or within :func:`as_saved`.
    """
    done = compression_of(model)
    rest = trained_rest(model)
    for adapter, entries in done.adapted().items():
        adapter.settle(model, shapes(model, entries))
    for name, parameter in rest.items() if not isinstance(done.rest, NoMethod) else ():
        with naming(name):
            stored = done.rest.compress(parameter.detach()).dense().to(parameter.dtype)
            parameter.copy_(stored)
    return model


@contextlib.contextmanager
def as_saved(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block the model computes with what is stored; then it is as it was."""
    live = adapter_tensors(model)
    before = [tensor.clone() for tensor in live]
    finalize(model)
    try:
        yield model
    finally:
        with torch.no_grad():
            for tensor, values in zip(live, before, strict=True):
                tensor.copy_(values)
