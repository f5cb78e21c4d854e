"""What a trial under way has come to: reports, the best epoch, the file on the shelf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compression.model import adapter_tensors
from trainables.checkpoint import refill
from trainables.record import Report, Size, from_json, to_json


@dataclass(frozen=True)
class Shelved:
    """An epoch's file: its bytes and work, its hash and that of its probe; None without a file."""

    epoch: int
    size: Size
    macs: int
    sha256: str | None = None
    probe: str | None = None


@dataclass
class SoFar:
    """See the module.

    ``size`` and ``macs`` are those of the ``best`` epoch, ``best_params`` its adapter's tensors;
    ``seconds`` is what the trial took.
    """

    size: Size | None = None
    macs: int = 0
    curve: list[Report] = field(default_factory=list)
    best: int = -1
    best_params: list[Tensor] = field(default_factory=list)
    shelved: Shelved | None = None
    seconds: float = 0.0

    @property
    def epochs_done(self) -> int:
        """Epochs trained so far."""
        return self.curve[-1].epochs_done if self.curve else 0

    @property
    def best_without_file(self) -> Shelved:
        """The best epoch, as if it had no file."""
        if self.size is None:
            raise RuntimeError("the trial has not begun")
        return Shelved(self.best, self.size, self.macs)

    def to_tree(self) -> dict[str, Any]:
        """For a checkpoint; the inverse of :meth:`from_tree`."""
        return {
            "size": to_json(self.size),
            "macs": self.macs,
            "curve": to_json(self.curve),
            "best": self.best,
            "best_params": self.best_params,
            "shelved": to_json(self.shelved),
            "seconds": self.seconds,
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> SoFar:
        """The inverse of :meth:`to_tree`.

        Raises:
            KeyError: something is not there.
            ValueError: something is there that breaks its rule.
        """
        shelved = tree["shelved"]
        return cls(
            size=from_json(Size, tree["size"]),
            macs=tree["macs"],
            curve=[from_json(Report, row) for row in tree["curve"]],
            best=tree["best"],
            best_params=list(tree["best_params"]),
            shelved=None if shelved is None else from_json(Shelved, shelved),
            seconds=tree["seconds"],
        )


@contextmanager
def holding(model: nn.Module, params: Sequence[Tensor]) -> Iterator[None]:
    """Within it the model's adapter has the values of another epoch."""
    current = [tensor.clone() for tensor in adapter_tensors(model)]
    _set_params(model, params)
    try:
        yield
    finally:
        _set_params(model, current)


@torch.no_grad()
def _set_params(model: nn.Module, values: Sequence[Tensor]) -> None:
    for tensor, value in zip(adapter_tensors(model), values, strict=True):
        refill(tensor, value)
