"""What a chain contains: its first method's smaller forms, else those of what follows."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from compression.methods.base import Method, Shape
from compression.methods.levels import Croppable, Nested
from compression.methods.none import NoMethod


@dataclass(frozen=True, repr=False)
class NestedChain(Nested):
    """A chain with the first method's levels, its slots cropped in the form they are stored in.

    Where the first method has none, or a slot cannot be cropped, all slots go down together by the
    levels of the methods that store them.
    """

    first: Method = field(default_factory=NoMethod)
    then: Mapping[str, Method] = field(default_factory=dict)

    @abstractmethod
    def _after(self, slot: str) -> Method:
        """The method of a slot."""

    @abstractmethod
    def _unpacked(self, tensors: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
        """The tensors of the first method."""

    def _stored(self, tensors: Mapping[str, Tensor], slot: str, matrix: Shape) -> dict[str, Tensor]:
        """The tensors of a slot, by their names in its method."""
        return {name: tensors[joined(slot, name)] for name in self._after(slot).layout(matrix)}

    def forms(self, shape: Shape) -> list[Method]:
        """See :meth:`Nested.forms`."""
        if isinstance(self.first, Nested) and self._crops(shape):
            return [replace(self, first=first) for first in self.first.levels(shape)]
        return self._lower(shape)

    def _crops(self, shape: Shape) -> bool:
        """Whether the first method's levels are in the slots as these are stored."""
        slots = self.first.inner(shape)
        methods = [self._after(slot) for slot in slots]
        return (
            isinstance(self.first, Nested)
            and self.first.crops_inner
            and slots.keys() == self.first.layout(shape).keys()
            and all(isinstance(one, Croppable) and one.crops for one in methods)
        )

    def _lower(self, shape: Shape) -> list[Method]:
        slots = self.first.inner(shape)
        below = [
            method.levels(matrix) if isinstance(method := self._after(slot), Nested) else ()
            for slot, matrix in slots.items()
        ]
        together = zip(*below, strict=False)
        return [
            replace(self, then=_then(dict(zip(slots, level, strict=True)))) for level in together
        ]

    def at_level(
        self, tensors: Mapping[str, Tensor], shape: Shape, level: Method
    ) -> dict[str, Tensor]:
        """See :meth:`Nested.at_level`."""
        if not isinstance(level, NestedChain):
            raise TypeError(f"{level} is no level of {self}")
        before, after = self.first.inner(shape), level.first.inner(shape)
        found = {name: tensors[name] for name in self.first.layout(shape) if name not in before}
        for slot, matrix in before.items():
            method: Any = self._after(slot)
            own = self._stored(tensors, slot, matrix)
            if level.first == self.first:
                own = method.at_level(own, matrix, level._after(slot))
            else:
                own = method.crop(own, matrix, after[slot])
            found |= {joined(slot, name): tensor for name, tensor in own.items()}
        return {name: found[name] for name in level.layout(shape)}

    def level_errors(
        self, tensors: Mapping[str, Tensor], shape: Shape, levels: Sequence[Method]
    ) -> list[float]:
        """See :meth:`Nested.level_errors`: those of the first method, where the levels are its."""
        first = self.first
        if not isinstance(first, Nested) or not self._crops(shape):
            return super().level_errors(tensors, shape, levels)
        firsts = [level.first for level in levels if isinstance(level, NestedChain)]
        return first.level_errors(self._unpacked(tensors, shape), shape, firsts)


def joined(slot: str, name: str) -> str:
    """A chain's name of a tensor that a slot is stored in."""
    return f"{slot}_{name}"


def filled(values: Tensor, matrix: Shape) -> Tensor:
    """Values in row order as a matrix, with zeros at its end where it has more cells."""
    return nn.functional.pad(values.flatten(), (0, math.prod(matrix) - values.numel())).view(matrix)


def _then(slots: Mapping[str, Method]) -> Mapping[str, Method]:
    """One entry in the file's header, where all slots have one method."""
    return {"": next(iter(slots.values()))} if len(set(slots.values())) == 1 else slots
