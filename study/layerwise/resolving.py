"""What each group of layers may choose from, checked against the layers that are its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from compression.methods import METHODS
from compression.methods.base import matrix_shape
from compression.registry import Domain, IntRange, Values
from compression.rules import target_layers
from study.fields.choices import Located
from study.layerwise.config import GROUPED, GroupConfig, LayerwiseConfig
from study.layerwise.groups import owned
from study.layerwise.useful_ranks import with_useful_ranks
from study.space.options import Option
from study.space.targets import adapter_problems, leaves_nothing, method_problems, rank_problem
from trainables.tasks import Task

Problem = tuple[tuple[str | int, ...], str]


@dataclass(frozen=True)
class Some:
    """Some of a model's layers, to be checked as a task's targets are."""

    model: nn.Module
    targets: tuple[str, ...]

    def skeleton(self) -> nn.Module:
        """The model."""
        return self.model

    @cached_property
    def largest_rank(self) -> int:
        """Of any of the layers: min(out, in)."""
        shapes = [layer.get_parameter("weight").shape for layer in self.layers.values()]
        return max(min(matrix_shape(tuple(shape))) for shape in shapes)

    @cached_property
    def layers(self) -> dict[str, nn.Module]:
        """By dotted name."""
        return target_layers(self.model, self.targets)


def resolved(layerwise: LayerwiseConfig, common: Mapping[str, Any], task: Task) -> LayerwiseConfig:
    """The groups with all that they choose from written out.

    What a group does not say is as ``common`` says, with ranks up to the largest that its layers
    can have, and of methods up to those that still save something in one of its layers.

    Raises:
        Located: all that is wrong with any group, by its path.
    """
    model = task.skeleton()
    patterns = {name: group.layers for name, group in layerwise.groups.items()}
    names = owned(patterns, target_layers(model, task.targets))
    found, problems = dict[str, GroupConfig](), list[Problem]()
    for name, group in layerwise.groups.items():
        if not names[name]:
            text = f"'{group.layers}' has no target layer, or earlier groups have them all"
            problems.append((("groups", name, "layers"), text))
            continue
        some = Some(model, tuple(names[name]))
        own = {axis: value for axis in GROUPED if (value := getattr(group, axis)) is not None}
        whole = {axis: own.get(axis, common[axis]) for axis in GROUPED}
        if "rank" not in own:
            whole["rank"] = _up_to(some.largest_rank, common["rank"])
        if "method" not in own:
            whole["method"] = with_useful_ranks(whole["method"], some)
        found[name] = group.model_copy(update=whole)
        problems += [(("groups", name, *at), text) for at, text in _problems(whole, own, some)]
    if problems:
        raise Located(problems)
    return layerwise.model_copy(update={"groups": found})


def _up_to(largest: int, ranks: Domain) -> Domain:
    """The ranks that some layer of a group can have; the largest, where all are above it."""
    if isinstance(ranks, Values):
        fit = tuple(rank for rank in ranks.values if int(rank) <= largest)
        return Values(fit or (largest,))
    high = min(int(ranks.high), largest)
    return IntRange(min(int(ranks.low), high), high, ranks.log)


def _problems(whole: Mapping[str, Any], own: Mapping[str, Any], some: Some) -> Iterator[Problem]:
    for option in whole["method"]:
        for part in option.parts or (option,):
            if METHODS[part.name].structural:
                text = f"{part.name}: changes the layers around it; it has no place in groups"
                yield ("method",), text
    yield from ((("method",), text) for text in method_problems(whole["method"], some))
    empty = [o.name for o in whole["method"] if leaves_nothing(o)]
    if empty and any(option.name == "none" for option in whole["adapter"]):
        text = f"none: {', '.join(empty)} leaves nothing of a layer without an adapter"
        yield ("adapter",), text
    for option in whole["adapter"]:
        if "lr" in option.domains:
            text = f"{option.name}.lr: groups are trained together; set that of the optimizer"
            yield ("adapter",), text
    if "rank" in own and (problem := rank_problem(own["rank"], some, whole["method"])):
        yield ("rank",), problem
    else:
        yield from ((("adapter",), text) for text in adapter_problems(whole, some))


def united(layerwise: LayerwiseConfig) -> dict[str, tuple[Option, ...]]:
    """The options of each axis that groups choose on, of all groups together, without repeats."""
    found: dict[str, tuple[Option, ...]] = {"method": (), "init": (), "adapter": ()}
    for axis in found:
        for group in layerwise.groups.values():
            new = [o for o in getattr(group, axis) or () if o not in found[axis]]
            found[axis] += tuple(new)
    return found
