"""Labelled examples that are fetched by the batch, from wherever they are."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

Inputs = Tensor | Mapping[str, Tensor]
"""What a model is called with: one tensor, or tensors by keyword; examples along dimension 0."""


def map_inputs(fn: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """``fn`` of each tensor."""
    if isinstance(inputs, Tensor):
        return fn(inputs)
    return {key: fn(tensor) for key, tensor in inputs.items()}


@dataclass(frozen=True)
class Batch:
    """Some examples: inputs (b, ...), labels (b, ...)."""

    inputs: Inputs
    labels: Tensor


class Split(ABC):
    """Examples in a fixed order. Small to send to a worker: the data stays where it is.

    With ``views`` above 1 each example stands there in several distorted forms, row
    ``view * n + example``. Training draws one of them anew for each example and epoch; view 0 is
    what is scored.
    """

    labels: Tensor
    """(n, ...); one row an example."""

    views: int = 1

    groups: Tensor | None = None
    """(n,) int64: examples of one group are alike, as crops of one photo, and an interval counts
    groups, not examples; None where examples are independent."""

    def __len__(self) -> int:
        """Examples, however many views they have."""
        return len(self.labels)

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hash of the inputs as a model gets them: the raw data, its order and its preparation."""

    @abstractmethod
    def inputs(self, rows: Tensor) -> Inputs:
        """What the model is called with for these rows, (b,) int64 below ``views * n``."""

    def order(self, size: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Rows in batches of at most ``size``: in the generator's order, or once each as they are.

        A split may batch examples of a kind together, so that rows come in its own order even
        without a generator.
        """
        n = len(self)
        if generator is None:
            yield from torch.arange(n).split(size)  # type: ignore[no-untyped-call]
            return
        rows = torch.randperm(n, generator=generator)
        if self.views > 1:
            rows += n * torch.randint(self.views, (n,), generator=generator)
        yield from rows.split(size)  # type: ignore[no-untyped-call]

    def batch(self, rows: Tensor) -> Batch:
        """The examples in these rows."""
        examples = rows if self.views == 1 else rows % len(self)
        return Batch(self.inputs(rows), self.labels[examples])

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """The batches of :meth:`order`."""
        for rows in self.order(size, generator):
            yield self.batch(rows)


class StandIn(Split):
    """The same examples as another split, with other inputs: order, labels and the rest are its.

    Args:
        base: the split that it stands for.
    """

    def __init__(self, base: Split) -> None:
        self.base = base
        self.labels, self.views, self.groups = base.labels, base.views, base.groups

    @property
    def digest(self) -> str:
        """See :class:`Split`."""
        return self.base.digest

    def order(self, size: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """See :class:`Split`."""
        return self.base.order(size, generator)


@dataclass(frozen=True, eq=False)
class TensorSplit(Split):
    """Examples held as tensors: inputs (n, ...) or several by keyword, labels (n, ...)."""

    tensors: Inputs
    labels: Tensor = field()
    groups: Tensor | None = None

    def inputs(self, rows: Tensor) -> Inputs:
        """See :class:`Split`."""
        return map_inputs(lambda tensor: tensor.index_select(0, rows), self.tensors)

    @cached_property
    def digest(self) -> str:
        """See :class:`Split`."""
        named = {"": self.tensors} if isinstance(self.tensors, Tensor) else self.tensors
        found = hashlib.sha256()
        for name, tensor in named.items():
            found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            found.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return found.hexdigest()
