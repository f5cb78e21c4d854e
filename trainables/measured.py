"""What was measured of a trial: bytes, metrics by epoch, how it ended. Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from trainables.serial import check_scalar, require

OUT_OF_MEMORY = "out of memory"
"""The cause of a trial that no worker has room for, alone neither. Its ``error`` begins so."""


class Status(StrEnum):
    """How a trial ended: at its full budget, ended early by the scheduler, or by an error.

    Running out of memory is an error of its own: with more of it the trial may well succeed.
    """

    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"


def check_metrics(metrics: Mapping[str, Any], where: str) -> None:
    """Refuse everything but finite numbers."""
    for name, value in metrics.items():
        require(type(value) in (int, float), f"{where}.{name}: expected a number, got {value!r}")
        require(math.isfinite(value), f"{where}.{name}: {value} is not finite; leave it out")


@dataclass(frozen=True)
class Parts:
    """Bytes (or bits) of a file by what they hold."""

    base: int = 0
    scales: int = 0
    indices: int = 0
    adapter: int = 0
    untouched: int = 0
    header: int = 0

    def __post_init__(self) -> None:
        """Counts are non-negative integers."""
        for f in fields(self):
            value = getattr(self, f.name)
            require(type(value) is int and value >= 0, f"Parts.{f.name}: must be an int >= 0")

    @property
    def total(self) -> int:
        """All parts."""
        return sum(getattr(self, f.name) for f in fields(self))

    @property
    def tensors(self) -> int:
        """All parts but the header."""
        return self.total - self.header


@dataclass(frozen=True)
class Size:
    """Bytes as stored. Ratios are derived, never stored.

    ``model`` and ``dense_model`` are whole files with their headers, ``targets`` and
    ``dense_targets`` the targeted layers in them (biases under ``untouched``, no header).
    ``nominal_bits`` counts the values of the targets' weights only, as published tables do.
    """

    model: Parts
    targets: Parts
    dense_model: Parts
    dense_targets: Parts
    nominal_bits: int
    dense_nominal_bits: int

    def __post_init__(self) -> None:
        """A dense model has bytes."""
        require(self.dense_model.total > 0, "Size.dense_model: must have bytes")
        require(self.model.total > 0, "Size.model: must have bytes")

    @property
    def file_bytes(self) -> int:
        """Length of the file, header included."""
        return self.model.total

    @property
    def stored_bytes(self) -> int:
        """All tensors of the file."""
        return self.model.tensors

    @property
    def ratio(self) -> float:
        """File of the dense model / file of this one. The headline."""
        return self.dense_model.total / self.model.total

    @property
    def log2_ratio(self) -> float:
        """log2 of :attr:`ratio`, the axis of the search."""
        return math.log2(self.ratio)

    @property
    def layer_ratio(self) -> float | None:
        """The same over the targeted layers only; None if nothing of them is stored."""
        return self.dense_targets.total / self.targets.total if self.targets.total else None

    @property
    def nominal_ratio(self) -> float | None:
        """Values only, as published tables count."""
        return self.dense_nominal_bits / self.nominal_bits if self.nominal_bits else None


@dataclass(frozen=True)
class Report:
    """One rung report: metrics of the validation split after so many epochs.

    ``file_bytes`` is the length of the file that would ship then, where it changes in training;
    ``settled`` says whether it has its final form: ranks, zeros, bytes.
    """

    epochs_done: int
    metrics: Mapping[str, float]
    train_loss: float | None = None
    seconds: float = 0.0
    file_bytes: int | None = None
    settled: bool = True

    def __post_init__(self) -> None:
        """Every number is finite."""
        require(
            self.file_bytes is None or self.file_bytes > 0, "Report.file_bytes: must be above 0"
        )
        require(self.epochs_done >= 0, "Report.epochs_done: must be >= 0")
        check_metrics(self.metrics, "Report.metrics")
        if self.train_loss is not None:
            check_scalar(self.train_loss, "Report.train_loss")


@dataclass(frozen=True)
class Outcome:
    """What was measured. Nothing stands in for what was not: it is None or absent.

    ``metrics[split][name]`` are those of the best epoch by validation (``best_epoch``), each in its
    own units: an accuracy is a fraction, a loss or a perplexity is not.
    ``sha256`` is the artifact's, ``probe`` that of its logits on a fixed validation batch.
    ``peak_memory`` is in bytes: on CUDA what torch allocated on the card at most; on the CPU the
    worker's peak resident set less what it shares (mapped files); None where unknown.
    ``latency_ms`` is what one example takes a model of this form, by the table that the study
    measured with nothing beside it; None where it made none.
    """

    status: Status
    epochs_done: int = 0
    best_epoch: int | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    size: Size | None = None
    macs: int | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    sha256: str | None = None
    probe: str | None = None
    curve: tuple[Report, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        """Completed needs finite metrics and a size; failed needs a cause.

        What failed for memory gets the status of that, in records from before there was one, too.
        """
        for split, metrics in self.metrics.items():
            check_metrics(metrics, f"Outcome.metrics.{split}")
        if self.failed:
            require(bool(self.error), "Outcome.error: a failed trial needs its cause")
            memory = self.cause == OUT_OF_MEMORY
            object.__setattr__(self, "status", Status.OUT_OF_MEMORY if memory else Status.FAILED)
        else:
            require(
                bool(self.metrics.get("val")), f"Outcome.metrics.val: needed when {self.status}"
            )
            require(self.size is not None, f"Outcome.size: needed when {self.status}")
            require(self.error is None, f"Outcome.error: must be absent when {self.status}")

    @property
    def failed(self) -> bool:
        """Whether an error ended it, that of having no room included."""
        return self.status in (Status.FAILED, Status.OUT_OF_MEMORY)

    @property
    def cause(self) -> str | None:
        """What kind of error, and where: equal for failures that differ in figures only."""
        if self.error is None:
            return None
        kind, _, rest = self.error.partition(":")
        if kind == OUT_OF_MEMORY:
            return kind
        found = re.search(r"\(([^()]+:\d+)\)$", rest)
        return f"{kind} ({found[1]})" if found else self.error
