"""What can be told against rules before any work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from compression.adapters import Adapter, NoAdapter
from compression.inits import Init, Zeros
from compression.kinds import bare
from compression.methods import Method
from compression.methods.base import matrix_shape
from compression.rank_limits import no_smaller, oversized, smaller_rank
from compression.registry import InvalidSetting
from compression.rules import Compression, Rule, compression_of, leaves_alone


def check(
    model: nn.Module,
    assigned: Mapping[Rule, list[str]],
    layers: Mapping[str, nn.Module],
    rest: Method,
) -> None:
    """Find every error that can be told before the work.

    Raises:
        InvalidSetting: all of them.
    """
    errors = []
    if compression_of(model) != Compression():
        errors.append("the model is compressed already; start from the dense one")
    if not rest.any_shape:
        errors.append(f"rest: {rest.name} cannot take tensors of any shape; use none or cast")
    shared = shared_weights(model)
    for rule, names in assigned.items():
        errors.extend(_rule_errors(rule, {name: layers[name] for name in names}))
        errors.extend(rule.method.refusals(model, {name: layers[name] for name in names}))
        errors.extend(rule.adapter.model_refusals(model))
        weights = {name: tuple(bare(layers[name]).weight.shape) for name in names}
        errors.extend(filter(None, [oversized(rule.method, weights)]))
        for name in names:
            errors.extend(_layer_errors(name, layers[name], rule, shared))
    if errors:
        raise InvalidSetting(errors)


def _rule_errors(rule: Rule, layers: Mapping[str, nn.Module]) -> Iterator[str]:
    shapes = [tuple(bare(layer).weight.shape) for layer in layers.values()]
    limit, adapter = max(min(matrix_shape(shape)) for shape in shapes), rule.adapter
    where = f"rule '{rule.pattern}'"
    if isinstance(adapter, NoAdapter):
        if rule.rank:
            yield f"{where}: rank {rule.rank} has no effect without an adapter"
        if rule.kept.base_is_gone:
            yield f"{where}: {rule.kept.name} leaves nothing without an adapter"
    elif not adapter.ranked:
        if rule.rank:
            yield f"{where}: rank {rule.rank} has no effect: adapter {adapter.name} has none"
    elif rule.rank < 1:
        yield f"{where}: adapter {adapter.name} needs a rank of at least 1"
    elif rule.rank > limit:
        yield f"{where}: rank {rule.rank} is above min(out, in) = {limit} of its largest layer"
    elif rule.kept.base_is_gone:
        most = max(map(smaller_rank, shapes))
        if rule.rank > most:
            yield f"{where}: {no_smaller(rule.rank, most)}"
    if rule.alpha is not None:
        if not rule.alpha > 0:
            yield f"{where}: alpha must be above 0, got {rule.alpha}"
        elif not adapter.scaled:
            yield f"{where}: alpha has no effect under adapter {adapter.name}"
    if not isinstance(adapter, NoAdapter):
        yield from start_problems(adapter, rule.init, rule.rank)
        if not adapter.ranked or rule.rank >= 1:
            yield from adapter.refusals(layers, rule.rank, [rule.kept])


def start_problems(adapter: Adapter, init: Init, rank: int) -> Iterator[str]:
    """Why an adapter cannot start as an init says."""
    if not adapter.takes_delta and not isinstance(init, Zeros):
        yield f"adapter {adapter.name} starts at the base as it is: init {init.name} has no effect"
    elif adapter.takes_delta and (problem := init.rank_problem(rank)):
        yield problem


def _layer_errors(
    name: str, layer: nn.Module, rule: Rule, shared: Mapping[int, str]
) -> Iterator[str]:
    if not leaves_alone(rule.method, rule.adapter) and (
        names := shared.get(id(bare(layer).weight))
    ):
        yield f"{name}: its weight is shared ({names}); untie it or leave it out of the targets"


def shared_weights(model: nn.Module) -> dict[int, str]:
    """Names by id of the tensors that occur under more than one name."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {key: " = ".join(found) for key, found in names.items() if len(found) > 1}
