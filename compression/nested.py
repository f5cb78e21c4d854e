"""The smaller models inside a saved one, and the best of them that fits a number of bytes.

A method whose form contains smaller ones (:class:`Nested`) lets its layer go down, level by level.
Over all layers one list of cuts comes out: each takes one layer down further, that which adds the
least squared error ``||W^ - W_l||_F^2`` for a byte, on the lower convex hull of the layer's levels.
Every cut is inside all those before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    """A layer's forms, the stored one first, with the bytes and the squared error of each."""

    forms: tuple[Method, ...]
    bytes: tuple[int, ...]
    errors: tuple[float, ...]

    @cached_property
    def hull(self) -> tuple[int, ...]:
        """The forms on the lower convex hull of error over bytes, from the first to the last."""
        kept = [0]
        for form in range(1, len(self.forms)):
            while len(kept) > 1 and self.slope(kept[-1], form) <= self.slope(*kept[-2:]):
                kept.pop()
            kept.append(form)
        return tuple(kept)

    def slope(self, form: int, lower: int) -> float:
        """Error that a lower form adds for each byte that it saves."""
        return (self.errors[lower] - self.errors[form]) / (self.bytes[form] - self.bytes[lower])


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
        levels = method.levels(shape)
        try:
            errors = method.level_errors(self._own(name, method), shape, levels)
        except InvalidSetting:
            return None  # scales that grow do not fit into their format
        sizes = (sum(s.nbytes for s in m.layout(shape).values()) for m in (method, *levels))
        return Ladder((method, *levels), tuple(sizes), (0.0, *errors)) if levels else None

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
        """The first cut of the path that fits; then layers go up again as far as bytes are left.

        Raises:
            ArtifactError: no cut fits; names the least there is, and what takes it.
        """
        fixed = sum(tensor.nbytes for tensor in self._empty.values()) - self.payload(
            dict.fromkeys(self.ladders, 0)
        )
        for state in self.path():
            if fixed + self.payload(state) <= max_bytes and self.length(state) <= max_bytes:
                return self._filled(dict(state), max_bytes)
        raise ArtifactError(self._too_small(max_bytes))

    def _filled(self, state: dict[str, int], max_bytes: int) -> State:
        """Each time the step up that takes away the most error of those that fit."""
        while True:
            left = max_bytes - self.length(state)
            steps = sorted(
                (ladder.errors[form] - ladder.errors[state[name]], name, form)
                for name, ladder in self.ladders.items()
                for form in range(state[name])
                if ladder.bytes[form] - ladder.bytes[state[name]] <= left
            )
            fitting = (
                (name, form)
                for gain, name, form in steps
                if gain < 0 and self.length({**state, name: form}) <= max_bytes
            )
            step = next(fitting, None)
            if step is None:
                return state
            state[step[0]] = step[1]

    def _too_small(self, max_bytes: int) -> str:
        """What the least takes."""
        *_, (state, least) = self.cuts()
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
    header, tensors = nest.cut(nest.within(max_bytes))
    return pack_file(tensors, header.compression, header.about)
