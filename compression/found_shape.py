"""The shape of a dense weight, found back from what is stored of it.

A file names its layers' methods and holds their tensors, not the architecture. Where a size cannot
be told from them the shape stays unknown: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from compression.adapters import Adapter, NoAdapter
from compression.methods.base import Method, Shape, Slot

Form = tuple[torch.dtype, Shape]
Layout = Callable[[Shape], Mapping[str, Slot]]
PROBES = ((10007, 20011), (10080, 20160))
"""Two shapes: a dimension that is the rows of both is the rows of any, prime or not."""
WIDEST = 1 << 26
"""Columns, beyond which none are looked for."""


def found_shape(
    method: Method, tensors: Mapping[str, Form], adapter: Adapter | None = None, rank: int = 0
) -> Shape | None:
    """The shape (m, n) of ``W.flatten(1)``, from dtypes and shapes of all tensors of its layer.

    m is the length of the bias; m and n are read off packed tensors and those of the adapter that
    have such a dimension; n else follows from the bytes, where one n only has as many.

    Args:
        method: resolved.
        tensors: dtype and shape by name: packed, bias, adapter.
        adapter: on the layer, if there is one.
        rank: of the adapter.

    Returns:
        The shape; of a weight stored as it is all its dimensions. None where it cannot be told.
    """
    if method.any_shape and "weight" in tensors:
        return tensors["weight"][1]
    layouts: list[Layout] = [method.layout]
    if adapter is not None and not isinstance(adapter, NoAdapter):
        layouts.append(lambda shape: _beside(adapter, shape, rank))
    rows, columns = ({n for f in layouts for n in _read(f, tensors, axis)} for axis in (0, 1))
    rows |= {*tensors["bias"][1]} if "bias" in tensors else set()
    if len(rows) == 1 and not columns:
        columns = set(_by_bytes(method, tensors, *rows))
    if len(rows) != 1 or len(columns) != 1:
        return None
    shape = (*rows, *columns)
    return shape if fits(method, shape, tensors) else None


def fits(method: Method, shape: Shape, tensors: Mapping[str, Form]) -> bool:
    """Whether the layout for a shape is all there, each tensor as it says."""
    layout = tried(method.layout, shape)
    return layout is not None and all(
        tensors.get(name) == (slot.dtype, slot.shape) for name, slot in layout.items()
    )


def tried(layout: Layout, shape: Shape) -> Mapping[str, Slot] | None:
    """The layout for a shape, or None where the settings do not suit it."""
    try:
        return layout(shape)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        return None


def _beside(adapter: Adapter, shape: Shape, rank: int) -> dict[str, Slot]:
    """An adapter's tensors on one layer, by suffix."""
    return {key[1:]: slot for key, slot in adapter.layout({"": (shape, rank)}).items()}


def _read(layout: Layout, tensors: Mapping[str, Form], axis: int) -> Iterator[int]:
    """Sizes of the tensors along dimensions that always are W's along ``axis``."""
    first, second = (tried(layout, probe) or {} for probe in PROBES)
    for name in first.keys() & second.keys() & tensors.keys():
        dims = first[name].shape, second[name].shape, tensors[name][1]
        if len({len(shape) for shape in dims}) == 1:
            wanted = tuple(probe[axis] for probe in PROBES)
            yield from (found for *seen, found in zip(*dims, strict=True) if (*seen,) == wanted)


def _by_bytes(method: Method, tensors: Mapping[str, Form], rows: int) -> Iterator[int]:
    """All n with which the layout has as many bytes, which do not fall as n grows."""
    names = tried(method.layout, (rows, 1)) or {}
    wanted = sum(Slot(*tensors[name], "base").nbytes for name in names if name in tensors)
    least, beyond = (_least(method, rows, bound) for bound in (wanted, wanted + 1))
    yield from range(least, beyond if wanted else least)


def _least(method: Method, rows: int, bound: int) -> int:
    """Fewest columns with which the layout has ``bound`` bytes or more."""
    low, high = 1, WIDEST
    while low < high:
        middle = (low + high) // 2
        layout = tried(method.layout, (rows, middle))
        if layout is None or sum(slot.nbytes for slot in layout.values()) >= bound:
            high = middle
        else:
            low = middle + 1
    return low
