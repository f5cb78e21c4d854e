"""What a config says of allocation by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import pydantic
from pydantic import Field, PlainValidator, StrictInt

from compression.allocation import ALLOCATORS, Allocator
from study.fields.amounts import parse_bytes
from study.fields.choices import Located, parse_plugin
from study.fields.sections import Section, as_written


def _bytes(value: object) -> int | None:
    return None if value is None else int(parse_bytes(value))


def _ratio(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 1 < value < float("inf"):  # type: ignore[operator]
        raise ValueError(f"expected how many times smaller than dense, above 1, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def _allocators(value: object) -> tuple[Allocator, ...]:
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not items:
        raise Located([((), "the list is empty; expected at least one allocator")])
    found = tuple(parse_plugin(ALLOCATORS, item) for item in items)
    names = [allocator.name for allocator in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Located([((), f"{', '.join(twice)}: named twice")])
    return found


class AllocateConfig(Section):
    """A file of at most ``max_bytes``, or ``target_ratio`` times smaller than the dense model's.

    ``by`` each allocator there is one start of the search: the best of ``refine`` allocations
    measured end to end, the allocator's own among them.
    """

    max_bytes: Annotated[int | None, PlainValidator(_bytes)] = None
    target_ratio: Annotated[float | None, PlainValidator(_ratio)] = None
    by: Annotated[tuple[Allocator, ...], PlainValidator(_allocators)] = as_written(["distortion"])
    refine: Annotated[StrictInt, Field(ge=0)] = 8

    @pydantic.model_validator(mode="after")
    def _one_size(self) -> AllocateConfig:
        if problems := list(self._problems()):
            raise Located([((), text) for text in problems])
        return self

    def _problems(self) -> Iterator[str]:
        if self.max_bytes is None and self.target_ratio is None:
            yield "how small? set max_bytes (--target-size on the command line) or target_ratio"
        if self.max_bytes is not None and self.target_ratio is not None:
            yield "max_bytes and target_ratio are both given; leave one out"

    def budget(self, dense_bytes: int) -> int:
        """Bytes of the file at most, where the dense model's has so many."""
        if self.target_ratio is not None:
            return int(dense_bytes / self.target_ratio)
        return self.max_bytes or 0
