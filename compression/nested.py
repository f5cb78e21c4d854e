"""The smaller models inside a saved one, and the best of them that fits a number of bytes.

A method whose form contains smaller ones (:class:`Nested`) lets its layer go down, level by level.
What that costs is the squared error ``||W^ - W_l||_F^2``, or what the method has for it. Over all
layers one list of cuts comes out, each inside all those before it: each takes one layer down
further, that which adds the least cost for a byte, on the convex hull of the layer's levels. For a
number of bytes that is between two of them, layers are chosen exactly, by a knapsack.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compression.allocation.least_sum import least_sum
from compression.allocation.solution import Problem
from compression.container import ArtifactError, Header, file_bytes, pack_file
from compression.methods import Method
from compression.methods.base import Shape
from compression.methods.levels import Nested
from compression.opened import Opened, open_file
from compression.registry import InvalidSetting

State = Mapping[str, int]
"""How far each layer has gone down; 0 is the form that is stored."""


class Cut(NamedTuple):
    """A model inside the file: its length as a file, its layers' methods where they go down.

    ``error`` is the sum of the squared errors of the layers' weights against those of the file.
    """

    bytes: int
    methods: Mapping[str, Method]
    error: float


@dataclass(frozen=True)
class Ladder:
    """A layer's forms, the stored one first, with bytes, squared error and cost of each."""

    forms: tuple[Method, ...]
    bytes: tuple[int, ...]
    errors: tuple[float, ...]
    costs: tuple[float, ...]

    @cached_property
    def hull(self) -> tuple[int, ...]:
        """The forms on the lower convex hull of cost over bytes, from the first to the last."""
        kept = [0]
        for form in range(1, len(self.forms)):
            # Equal slopes stay: the more sizes are offered.
            while len(kept) > 1 and self.slope(kept[-1], form) < self.slope(*kept[-2:]):
                kept.pop()
            kept.append(form)
        return tuple(kept)

    def slope(self, form: int, lower: int) -> float:
        """Cost that a lower form adds for each byte that it saves."""
        return (self.costs[lower] - self.costs[form]) / (self.bytes[form] - self.bytes[lower])


class Nest:
    """A file's header and tensors with its ladders.

    Args:
        header: of the file.
        tensors: of the file, by name.
        shapes: of the dense weights, by layer; layers without one stay as they are.
    """

    def __init__(
        self, header: Header, tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]
    ) -> None:
        self.header, self.tensors, self.shapes = header, tensors, shapes
        # Lengths follow from dtypes and shapes alone.
        self._empty = {n: torch.empty_like(t, device="meta") for n, t in tensors.items()}
        entries = header.compression.layers
        self.ladders = {
            name: ladder
            for name, shape in shapes.items()
            if name in entries and (ladder := self._ladder(name, entries[name].method, shape))
        }

    def _own(self, name: str, method: Method) -> dict[str, Tensor]:
        return {slot: self.tensors[f"{name}.{slot}"] for slot in method.layout(self.shapes[name])}

    @torch.no_grad()
    def _ladder(self, name: str, method: Method, shape: Shape) -> Ladder | None:
        if not isinstance(method, Nested):
            return None
        own, levels = self._own(name, method), method.levels(shape)
        try:
            errors = method.level_errors(own, shape, levels)
            costs = method.level_costs(own, shape, levels)
        except InvalidSetting:
            return None  # scales that grow do not fit into their format
        sizes = (sum(s.nbytes for s in m.layout(shape).values()) for m in (method, *levels))
        found = Ladder((method, *levels), tuple(sizes), (0.0, *errors), (0.0, *costs))
        return found if levels else None

    def path(self) -> Iterator[State]:
        """The file as it is, and then every cut, a layer further down in each."""
        state = dict.fromkeys(self.ladders, 0)
        yield dict(state)
        steps = [
            (ladder.slope(*pair), order, pair[1], name)
            for order, (name, ladder) in enumerate(self.ladders.items())
            for pair in zip(ladder.hull, ladder.hull[1:], strict=False)
        ]
        for _, _, form, name in sorted(steps):
            state[name] = form
            yield dict(state)

    def cuts(self) -> Iterator[tuple[State, Cut]]:
        """Those of the path that are shorter than all before them."""
        least = None
        for state in self.path():
            length = self.length(state)
            if least is None or length < least:
                least = length
                yield state, Cut(length, self._methods(state), self.error(state))

    def _methods(self, state: State) -> dict[str, Method]:
        return {name: self.ladders[name].forms[form] for name, form in state.items() if form}

    def error(self, state: State) -> float:
        """The sum of the layers' squared errors."""
        return sum(self.ladders[name].errors[form] for name, form in state.items())

    def payload(self, state: State) -> int:
        """Bytes of the layers that can go down, without headers."""
        return sum(self.ladders[name].bytes[form] for name, form in state.items())

    def length(self, state: State) -> int:
        """Length of the file of a cut."""
        tensors = dict(self._empty)
        for name, method in self._methods(state).items():
            for slot in self.ladders[name].forms[0].layout(self.shapes[name]):
                del tensors[f"{name}.{slot}"]
            for slot, spec in method.layout(self.shapes[name]).items():
                tensors[f"{name}.{slot}"] = torch.empty(spec.shape, dtype=spec.dtype, device="meta")
        return file_bytes(tensors, self._header(state).compression, self.header.about)

    def _header(self, state: State) -> Header:
        done = self.header.compression
        layers = dict(done.layers)
        for name, method in self._methods(state).items():
            layers[name] = replace(layers[name], method=method)
        return Header(replace(done, layers=layers), self.header.about)

    def cut(self, state: State) -> tuple[Header, dict[str, Tensor]]:
        """Header and tensors of a cut."""
        found = dict(self.tensors)
        for name, level in self._methods(state).items():
            method: Any = self.ladders[name].forms[0]
            own = self._own(name, method)
            for slot in own:
                del found[f"{name}.{slot}"]
            lower = method.at_level(own, self.shapes[name], level)
            found |= {f"{name}.{slot}": tensor for slot, tensor in lower.items()}
        return self._header(state), found

    def within(self, max_bytes: int) -> State:
        """The forms of the least cost in all that fit, exactly but for what the header varies by.

        Raises:
            ArtifactError: nothing fits; names the least there is, and what takes it.
        """
        state = dict.fromkeys(self.ladders, 0)
        while (length := self.length(state)) > max_bytes:
            # What is no layer's: grows at each turn, or the next state fits.
            beside = length - self.payload(state)
            found = self._least_cost(max_bytes - beside)
            if found is None:
                return self._least(max_bytes)
            state = found
        return state

    def _least_cost(self, payload: int) -> dict[str, int] | None:
        if payload < 0 or not self.ladders:
            return None
        ladders = self.ladders.values()
        costs, sizes = [one.costs for one in ladders], [one.bytes for one in ladders]
        if not all(math.isfinite(cost) for own in costs for cost in own):
            raise ArtifactError("weights that are not finite: nothing says which models are better")
        solution = least_sum(Problem.of(costs, sizes, payload))
        return dict(zip(self.ladders, solution.choices, strict=True)) if solution else None

    def _least(self, max_bytes: int) -> State:
        *_, (state, least) = self.cuts()
        if least.bytes <= max_bytes:
            return state
        raise ArtifactError(self._too_small(max_bytes, state, least))

    def _too_small(self, max_bytes: int, state: State, least: Cut) -> str:
        """What the least takes."""
        in_layers = self.payload(state)
        tensors = sum(tensor.nbytes for tensor in self.cut(state)[1].values())
        return (
            f"no model of {max_bytes} bytes is inside this file; the least has {least.bytes}: "
            f"{in_layers} in the {len(self.ladders)} layers that go down, at their lowest, "
            f"{tensors - in_layers} in other tensors, {least.bytes - tensors} of header"
        )


def fit(
    header: Header, tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape], max_bytes: int
) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors of the best model inside these that has at most ``max_bytes`` as a file.

    Args:
        header: of the file.
        tensors: of the file, by name.
        shapes: of the dense weights, by layer.
        max_bytes: of the whole file, header included.

    Raises:
        ArtifactError: there is none so small.
    """
    nest = Nest(header, tensors, shapes)
    return nest.cut(nest.within(max_bytes))


def levels(path: str, filesystem: Any = None) -> list[Cut]:
    """The models inside a saved one, from all of it to the least, each shorter than that before.

    Raises:
        ArtifactError: the file is cut, changed, foreign or too new.
        FileNotFoundError: no such file.
    """
    return [cut for _, cut in nest_of(open_file(path, filesystem=filesystem)).cuts()]


def nest_of(file: Opened) -> Nest:
    """The ladders of a file that is open; layers whose shape it does not tell stay as they are."""
    shapes = {name: layer.shape for name, layer in file.layers.items() if layer.shape is not None}
    return Nest(file.header, file.tensors, shapes)


def cut_bytes(file: Opened, max_bytes: int) -> bytes:
    """The file of the best model inside another that has at most ``max_bytes``.

    Raises:
        ArtifactError: there is none so small.
    """
    nest = nest_of(file)
    try:
        header, tensors = nest.cut(nest.within(max_bytes))
    except ArtifactError as error:
        raise ArtifactError(f"{file.source}: {error}") from error
    return pack_file(tensors, header.compression, header.about)
