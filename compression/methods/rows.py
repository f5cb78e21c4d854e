"""Some rows of a packed weight, of those forms whose tensors hold row after row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from compression.methods.form import Shape, Slot

BLOCK = 2**20  # entries of a weight that are decoded at a time
ROW_STEP = 40
"""Rows whose codes of any number of bits, or base-3 digits five a byte, end with a byte."""


class Rowed(Protocol):
    """What of a method this file looks at: see :class:`compression.methods.base.Method`."""

    @property
    def row_step(self) -> int:
        """Rows after which a byte ends; 0 without such."""

    @property
    def common(self) -> frozenset[str]:
        """Slots that all rows share."""

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """Every packed tensor by name."""


class Decoder(Rowed, Protocol):
    """What decodes, whole or in part."""

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """The whole weight."""

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """Some of its rows."""


def cut(
    form: Rowed, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int
) -> tuple[int, dict[str, Tensor]]:
    """The tensors of rows ``first`` to ``stop`` as of a weight of its own, views of the given ones.

    ``first`` is the last multiple of the form's step up to ``start``; a slot's length for so many
    rows is where it is cut.
    """
    first = start // form.row_step * form.row_step
    begin, end = (_lengths(form, (rows, *shape[1:])) for rows in (first, stop))
    own = {
        slot: tensor if slot in form.common else tensor[begin.get(slot, 0) : end[slot]]
        for slot, tensor in tensors.items()
    }
    return first, own


def in_blocks(form: Decoder, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """The whole weight; a large one by blocks of its rows, where these lie one after the other.

    Codes on their way to values take several times the room of the values.
    """
    entries = math.prod(shape)
    if not form.row_step or entries <= BLOCK:
        return form.decode(tensors, shape)
    count = shape[0]
    step = max(1, BLOCK * count // entries // form.row_step) * form.row_step
    first = form.rows(tensors, shape, 0, min(step, count))
    dense = first.new_empty(shape)
    dense[: len(first)] = first
    for start in range(step, count, step):
        stop = min(start + step, count)
        dense[start:stop] = form.rows(tensors, shape, start, stop)
    return dense


def cut_at(
    form: Rowed, tensors: Mapping[str, Tensor], shape: Shape, wanted: Tensor
) -> dict[str, Tensor] | None:
    """The tensors of the rows ``wanted`` (k,); None where a row may end within a byte."""
    if not form.row_step:
        return None
    split = {slot: tensor for slot, tensor in tensors.items() if slot not in form.common}
    one, some = (_lengths(form, (rows, *shape[1:])) for rows in (1, form.row_step))
    if any(some[slot] != form.row_step * one[slot] for slot in split):
        return None
    own = {
        slot: tensor.view(shape[0], -1, *tensor.shape[1:])[wanted].flatten(0, 1)
        for slot, tensor in split.items()
    }
    return {slot: own.get(slot, tensor) for slot, tensor in tensors.items()}


def _lengths(form: Rowed, shape: Shape) -> dict[str, int]:
    if not shape[0]:
        return {}
    return {slot: spec.shape[0] for slot, spec in form.layout(shape).items()}
