"""Which constraints no model of a space can meet, known before anything is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from compression.container import file_bytes
from compression.methods import METHODS, Method, NoMethod
from compression.methods.chain import split
from compression.model import target_layers
from compression.registry import IntRange, InvalidSetting, Values
from compression.rules import Compression
from study.constraints import DROP, Constraint, parse_constraint
from study.space.options import Option, choice, corner_plugins, option_params
from study.space.params import Param
from trainables.record import canonical
from trainables.tasks import Task

_CONTRARY = "no model can meet both"
MOST_SETTINGS = 500
"""Of one method, that are looked at; with more nothing is said of what it stores."""


@dataclass(frozen=True)
class Reach:
    """Bytes of the dense model's file, and the least that a compressed one keeps.

    ``rest`` is what tensors take that no method touches, ``stored`` and ``file`` the same as small
    as the space's ``rest`` stores them, alone in a file. They are 0 where a method removes
    structure, for parts of the rest go with it. ``layers`` is what the targets take in the dense
    model with their biases, ``targets`` the least that any method of the space stores of their
    weights, 0 where that is not known from shapes and settings.
    """

    dense: int = 0
    rest: int = 0
    stored: int = 0
    file: int = 0
    layers: int = 0
    targets: int = 0

    @property
    def ratio(self) -> float:
        """The highest."""
        least = self.file + self.targets
        return self.dense / least if least else float("inf")

    @property
    def layer_ratio(self) -> float:
        """The highest, were there no biases."""
        return self.layers / self.targets if self.targets else float("inf")


def reach(task: Task, methods: Sequence[Option], rests: Sequence[Option]) -> Reach:
    """What is left whatever is done to the targets.

    Args:
        task: the model and its targets.
        methods: those that the space tries.
        rests: what it tries on the tensors that no rule compresses.
    """
    model, about = task.skeleton(), _about(task)
    layers = target_layers(model, task.targets).values()
    owned = {id(p): p.nbytes for layer in layers for p in layer.parameters()}
    weights = {id(w): w for w in (layer.get_parameter("weight") for layer in layers)}
    tensors = _tensors(model)
    rest = {name: tensor for key, (name, tensor) in tensors.items() if key not in weights}
    dense = file_bytes(dict(tensors.values()), Compression(), about)
    taken = sum(tensor.nbytes for tensor in rest.values())
    if any(split(method)[0] for option in methods for method in _corners("method", option)):
        return Reach(dense, taken)
    stored = [_stored(rest, method) for option in rests for method in _corners("rest", option)]
    return Reach(
        dense,
        taken,
        min(sum(tensor.nbytes for tensor in kept.values()) for kept in stored),
        min(file_bytes(kept, Compression(), about) for kept in stored),
        sum(owned.values()),
        _least(methods, list(weights.values())),
    )


def _about(task: Task) -> dict[str, str]:
    return {"task": canonical(choice(task))}


def _tensors(model: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """With their names, by identity: a tensor that two layers share is stored once."""
    return {id(t): (name, t) for name, t in model.state_dict(keep_vars=True).items()}


def quota_problems(task: Task, quota: float | None) -> list[str]:
    """Whether the dense baseline's file alone takes more: every study has and keeps it."""
    if quota is None:
        return []
    tensors = _tensors(task.skeleton())
    dense = file_bytes(dict(tensors.values()), Compression(), _about(task))
    if quota >= dense:
        return []
    return [f"{quota:,.0f} bytes; the dense model's file alone takes {dense:,}: the least there is"]


def _least(methods: Sequence[Option], weights: Sequence[Tensor]) -> int:
    """Bytes of these weights, each as the method stores it that takes the fewest; adapters none."""
    made = [_settings(option) for option in methods]
    if any(found is None for found in made):
        return 0
    plugins = [method for found in made for method in found or ()]
    counts = Counter((tuple(weight.shape), weight.dtype) for weight in weights)
    try:
        return sum(
            count * min((_layout_bytes(method, shape, dtype) for method in plugins), default=0)
            for (shape, dtype), count in counts.items()
        )
    except InvalidSetting:  # known after compressing
        return 0


def _settings(option: Option) -> list[Any] | None:
    """A method at each of its settings; None where these are too many, or layers share a budget."""
    if any(METHODS[part.name].plan is not Method.plan for part, _ in option.plugins()):
        return None
    params = {key: _each(param) for key, param in option_params("method", option).items()}
    known = [param for param in params.values() if param is not None]
    if len(known) < len(params) or prod(len(p.corners()) for p in known) > MOST_SETTINGS:
        return None
    return list(corner_plugins("method", option.name, dict(zip(params, known, strict=True))))


def _each(param: Param) -> Param | None:
    """With all its values as corners: bytes need not grow or fall between the ends of a range."""
    domain = param.domain
    if isinstance(domain, IntRange) and domain.high - domain.low < MOST_SETTINGS:
        return replace(param, domain=Values(tuple(range(domain.low, domain.high + 1))))
    return param if isinstance(domain, Values) else None


def _layout_bytes(method: Any, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    if isinstance(method, NoMethod):
        return prod(shape) * dtype.itemsize
    return sum(slot.nbytes for slot in method.layout(shape).values())


def _corners(axis: str, option: Option) -> Iterator[Any]:
    return corner_plugins(axis, option.name, option_params(axis, option))


def _stored(rest: Mapping[str, Tensor], method: Any) -> dict[str, Tensor]:
    """Tensors of the shapes and dtypes in which a method stores them, without values."""
    kept = dict(rest)
    if isinstance(method, NoMethod):
        return kept
    for name, tensor in rest.items():
        if tensor.is_floating_point():
            slot = method.layout(tuple(tensor.shape))["weight"]
            kept[name] = torch.empty(slot.shape, dtype=slot.dtype, device="meta")
    return kept


def constraint_problems(
    task: Task, texts: Sequence[str], methods: Sequence[Option], rests: Sequence[Option]
) -> list[tuple[tuple[str | int, ...], str]]:
    """What is wrong with constraints, each with its place; what several of them make has none."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    parsed: dict[int, Constraint] = {}
    for index, text in enumerate(texts):
        try:
            parsed[index] = parse_constraint(text, task)
        except InvalidSetting as error:
            found += [((index,), line) for line in error.errors]
    bounds = reach(task, methods, rests) if parsed else Reach()
    for index, constraint in parsed.items():
        found += [((index,), f"{constraint.text}: {why}") for why in _alone(constraint, bounds)]
    return found + [((), text) for text in _together(list(parsed.values()), bounds)]


def _alone(constraint: Constraint, bounds: Reach) -> Iterator[str]:
    name, bound, upper = constraint.name, constraint.bound, constraint.upper
    if name == "stored_bytes" and upper and bound < bounds.stored + bounds.targets:
        yield f"no model can; {_left(bounds)}"
    elif name == "file_bytes" and upper and bound < (least := bounds.file + bounds.targets):
        yield f"no model can; {_left(bounds)}, {least:,} with the file's header"
    elif name == "ratio" and not upper and bound > bounds.ratio:
        yield f"at most {bounds.ratio:.4g} can be had; {_left(bounds)}"
    elif name == "layer_ratio" and not upper and bound > bounds.layer_ratio:
        yield (
            f"at most {bounds.layer_ratio:.4g} can be had; the space's methods store "
            f"{bounds.targets:,} bytes of the targets at least"
        )
    elif name == DROP and constraint.objective.is_fraction and not -1 <= bound <= 1:
        yield "a drop of a fraction lies between -100pp and 100pp"
    elif name == f"val_{constraint.objective.name}" and constraint.objective.is_fraction:
        if not 0 <= bound <= 1:
            yield f"{constraint.objective.name} is a fraction: expected 0 to 1, or 0% to 100%"


def _left(bounds: Reach) -> str:
    text = f"{bounds.stored:,} bytes are left of the tensors that no method touches"
    cast = f" ({bounds.rest:,} before they are cast)" if bounds.stored < bounds.rest else ""
    targets = f", {bounds.targets:,} of the targets" if bounds.targets else ""
    return f"{text}{cast}{targets}"


def _together(constraints: Sequence[Constraint], bounds: Reach) -> Iterator[str]:
    """Pairs that exclude each other, or that bound one thing twice from one side."""
    for index, one in enumerate(constraints):
        for other in constraints[index + 1 :]:
            pair = f"{one.text} and {other.text}"
            if one.name == other.name and one.upper == other.upper:
                yield f"{pair}: {one.name} is bounded twice"
            elif one.upper != other.upper:
                low, high = (other, one) if one.upper else (one, other)
                if low.name == high.name and low.bound > high.bound:
                    yield f"{pair}: {_CONTRARY}"
            if one.name != other.name and _apart(one, other, bounds):
                yield f"{pair}: {_CONTRARY}; the dense model's file has {bounds.dense:,} bytes"


def _apart(one: Constraint, other: Constraint, bounds: Reach) -> bool:
    """Whether one asks for more bytes than the other allows."""
    (low, high), (lowest, highest) = _of_file(one, bounds), _of_file(other, bounds)
    return low > highest or lowest > high


def _of_file(constraint: Constraint, bounds: Reach) -> tuple[float, float]:
    """Between which lengths a constraint wants the file, as far as it says."""
    name, bound, upper = constraint.name, constraint.bound, constraint.upper
    least, most = 0.0, float("inf")
    if name == "ratio":
        return (bounds.dense / bound, most) if upper else (least, bounds.dense / bound)
    if name == "file_bytes":
        return (least, bound) if upper else (bound, most)
    if name == "stored_bytes" and not upper:  # and the file is longer still
        return bound, most
    return least, most
