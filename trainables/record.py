"""The core types: what was asked, what was measured, where it ran. Standard library only.

Every type is frozen, checks itself when made, and goes to JSON and back without loss
(:mod:`trainables.serial`).
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar

from trainables.serial import (
    RecordError,
    Scalar,
    canonical,
    check_scalar,
    digest,
    from_json,
    plain_float,
    require,
    to_json,
)

__all__ = [
    "COUNTED",
    "NONE",
    "OUT_OF_MEMORY",
    "PRECISIONS",
    "SCHEMA",
    "Bounds",
    "Choice",
    "Direction",
    "Drop",
    "Fingerprint",
    "LayerRule",
    "Objective",
    "Origin",
    "Outcome",
    "Paired",
    "Parts",
    "Record",
    "RecordError",
    "Report",
    "Scalar",
    "Size",
    "Status",
    "Trial",
    "Verification",
    "canonical",
    "from_json",
    "to_json",
]

SCHEMA = 1
PRECISIONS = ("float32", "bfloat16", "float16")
OUT_OF_MEMORY = "out of memory"
"""The cause of a trial that no worker has room for, alone neither. Its ``error`` begins so."""
COUNTED = ("accuracy", "agreement")
"""Metrics that are the share of right examples, so that :class:`Paired` says all of a drop."""


class Direction(StrEnum):
    """Which way an objective is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class Status(StrEnum):
    """How a trial ended: at its full budget, ended early by the scheduler, or by an error."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


def _check_metrics(metrics: Mapping[str, Any], where: str) -> None:
    for name, value in metrics.items():
        require(type(value) in (int, float), f"{where}.{name}: expected a number, got {value!r}")
        require(math.isfinite(value), f"{where}.{name}: {value} is not finite; leave it out")


@dataclass(frozen=True)
class Objective:
    """A column to be made large or small. The only place where a sign is flipped."""

    name: str
    direction: Direction = Direction.MAXIMIZE
    unit: str = ""

    def loss(self, value: float) -> float:
        """``value`` so that smaller is better."""
        return -value if self.direction is Direction.MAXIMIZE else value

    def value(self, loss: float) -> float:
        """The inverse of :meth:`loss`."""
        return self.loss(loss)

    @property
    def is_fraction(self) -> bool:
        """Whether it lies in [0, 1], so that differences of it are points."""
        return self.unit == "fraction"

    def allowance(self, margin: float, reference: float) -> float:
        """How much worse than ``reference`` is within ``margin``, in the metric's own units.

        Points of a fraction: 0.01 is one point. Of anything else a share of the reference: 0.01 is
        one percent of it.
        """
        return margin if self.is_fraction else margin * abs(reference)


@dataclass(frozen=True)
class Choice:
    """A name from a registry with the settings that differ from its defaults."""

    name: str
    args: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the settings and freeze them in sorted order."""
        require(bool(self.name) and isinstance(self.name, str), "Choice.name: must be a word")
        for key, value in self.args.items():
            check_scalar(value, f"{self.name}.{key}")
        object.__setattr__(self, "args", types.MappingProxyType(dict(sorted(self.args.items()))))

    def __hash__(self) -> int:
        """By name and settings."""
        return hash((self.name, tuple(self.args.items())))

    def __str__(self) -> str:
        """``name`` or ``name(key=value, ...)``."""
        inner = ", ".join(f"{k}={v}" for k, v in self.args.items())
        return f"{self.name}({inner})" if inner else self.name

    def __reduce__(self) -> tuple[type[Choice], tuple[str, dict[str, Scalar]]]:
        """Mapping proxies don't pickle; plain dicts do."""
        return Choice, (self.name, dict(self.args))


NONE = Choice("none")


@dataclass(frozen=True)
class LayerRule:
    """How the layers that match ``pattern`` are compressed and adapted.

    ``methods`` is a chain: each works on what the one before left in floating point. ``rank`` is 0
    without an adapter; else it is clamped for each layer to min(in, out).
    """

    methods: tuple[Choice, ...]
    init: Choice = Choice("zeros")
    adapter: Choice = NONE
    rank: int = 0
    alpha: float | None = None
    pattern: str = "*"

    def __post_init__(self) -> None:
        """Check that adapter and rank agree."""
        require(len(self.methods) >= 1, "LayerRule.methods: needs at least one method")
        require(type(self.rank) is int and self.rank >= 0, "LayerRule.rank: must be an int >= 0")
        if self.adapter == NONE:
            require(self.rank == 0, "LayerRule.rank: must be 0 without an adapter")
            require(self.alpha is None, "LayerRule.alpha: must be absent without an adapter")
            require(
                self.init == Choice("zeros"), "LayerRule.init: must be zeros without an adapter"
            )
        else:
            require(self.rank >= 1, "LayerRule.rank: must be at least 1 with an adapter")
        if self.alpha is not None:
            object.__setattr__(self, "alpha", plain_float(self.alpha, "LayerRule.alpha"))
            require(self.alpha > 0, "LayerRule.alpha: must be above 0")


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of what a trial is run on: dense weights, data splits, calibration."""

    weights: str
    data: str
    calibration: str = ""


@dataclass(frozen=True)
class Trial:
    """What was asked: everything that determines a result, and nothing else.

    ``rest`` is applied to the tensors that no rule compresses (biases, norms); ``precision`` is
    that of training steps, scores are float32. Budgets that only stop a study are not here.
    """

    task: Choice
    layers: tuple[LayerRule, ...]
    recipe: Choice = Choice("recover")
    optimizer: Choice = NONE
    lr_schedule: Choice = Choice("constant")
    losses: tuple[Choice, ...] = ()
    hooks: tuple[Choice, ...] = ()
    rest: Choice = NONE
    lr: float = 0.0
    batch_size: int = 0
    epochs: int = 0
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Check budgets and that a trial which trains names what it needs."""
        require(
            self.precision in PRECISIONS,
            f"Trial.precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}",
        )
        for name in ("epochs", "batch_size", "seed"):
            value = getattr(self, name)
            require(type(value) is int and value >= 0, f"Trial.{name}: must be an int >= 0")
        object.__setattr__(self, "lr", plain_float(self.lr, "Trial.lr"))
        require(len(self.layers) >= 1, "Trial.layers: needs at least one rule")
        if self.epochs:
            require(self.optimizer != NONE, "Trial.optimizer: is needed when epochs > 0")
            require(self.batch_size > 0, "Trial.batch_size: must be above 0 when epochs > 0")
            require(self.lr > 0, "Trial.lr: must be above 0 when epochs > 0")

    def trial_id(self, on: Fingerprint) -> str:
        """Identity of this trial on these weights and data: 16 hex digits."""
        return digest([canonical(self), canonical(on)])

    def config_id(self, on: Fingerprint) -> str:
        """As :meth:`trial_id` without the seed, so that repeats group."""
        return digest([canonical(self, leave_out=("seed",)), canonical(on)])


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
    """One rung report: metrics of the validation split after so many epochs."""

    epochs_done: int
    metrics: Mapping[str, float]
    train_loss: float | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Every number is finite."""
        require(self.epochs_done >= 0, "Report.epochs_done: must be >= 0")
        _check_metrics(self.metrics, "Report.metrics")
        if self.train_loss is not None:
            check_scalar(self.train_loss, "Report.train_loss")


@dataclass(frozen=True)
class Outcome:
    """What was measured. Nothing stands in for what was not: it is None or absent.

    ``metrics[split][name]`` are fractions, of the best epoch by validation (``best_epoch``).
    ``sha256`` is the artifact's, ``probe`` that of its logits on a fixed validation batch.
    ``peak_memory`` is in bytes: on CUDA what torch allocated on the card at most; on the CPU the
    worker's peak resident set less what it shares (mapped files); None where unknown.
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

    def __post_init__(self) -> None:
        """Completed needs finite metrics and a size; failed needs a cause."""
        for split, metrics in self.metrics.items():
            _check_metrics(metrics, f"Outcome.metrics.{split}")
        if self.status is Status.FAILED:
            require(bool(self.error), "Outcome.error: a failed trial needs its cause")
        else:
            require(
                bool(self.metrics.get("val")), f"Outcome.metrics.val: needed when {self.status}"
            )
            require(self.size is not None, f"Outcome.size: needed when {self.status}")
            require(self.error is None, f"Outcome.error: must be absent when {self.status}")

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


@dataclass(frozen=True)
class Origin:
    """Where a result was made: code, versions, machine, inputs."""

    fingerprint: Fingerprint
    commit: str = ""
    dirty: bool | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    plugins: Mapping[str, str] = field(default_factory=dict)
    started: str = ""


@dataclass(frozen=True)
class Record:
    """One finished trial."""

    trial: Trial
    outcome: Outcome
    origin: Origin
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse records of a later version."""
        require(
            type(self.schema) is int and 1 <= self.schema <= SCHEMA,
            f"Record.schema: got {self.schema!r}, this version reads up to {SCHEMA}; upgrade it",
        )

    @property
    def trial_id(self) -> str:
        """See :meth:`Trial.trial_id`."""
        return self.trial.trial_id(self.origin.fingerprint)

    @property
    def config_id(self) -> str:
        """See :meth:`Trial.config_id`."""
        return self.trial.config_id(self.origin.fingerprint)


@dataclass(frozen=True)
class Paired:
    """Two models on the same ``n`` examples: how often only one of them is right."""

    n: int
    only_reference: int
    only_model: int
    flips: int = 0

    def __post_init__(self) -> None:
        """The counts fit in n."""
        require(self.n > 0, "Paired.n: must be above 0")
        require(
            0 <= self.only_reference + self.only_model <= self.n,
            "Paired: more disagreements than examples",
        )

    @property
    def drop(self) -> float:
        """Accuracy of the reference minus that of the model, a fraction."""
        return (self.only_reference - self.only_model) / self.n


@dataclass(frozen=True)
class Bounds:
    """An estimate between its one-sided 95% bounds."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        """Finite numbers, the bounds in order."""
        for f in fields(self):
            plain_float(getattr(self, f.name), f"Bounds.{f.name}")
        require(self.low <= self.high, "Bounds: low is above high")


@dataclass(frozen=True)
class Drop:
    """How much worse a model is than a reference on the same ``n`` examples; positive is worse.

    ``absolute`` is in the units of ``metric``, whichever way that is better; ``relative`` is a
    share of the reference's value, None for fractions. ``method`` says how the bounds were made.
    """

    metric: str
    n: int
    absolute: Bounds
    relative: Bounds | None = None
    method: str = ""

    def __post_init__(self) -> None:
        """There are examples."""
        require(self.n > 0, "Drop.n: must be above 0")


@dataclass(frozen=True)
class Verification:
    """A point loaded from its file in a fresh process and scored on test. Never edits a Record.

    ``paired`` holds the comparison with each baseline on the same test examples where these are
    right or wrong, ``drops`` that of a primary metric which is no share of right ones (not in
    :data:`COUNTED`). ``problems`` is empty when file, bytes, logits and metric agree with the
    record.
    """

    trial_id: str
    sha256: str
    file_bytes: int
    metrics: Mapping[str, float]
    paired: Mapping[str, Paired] = field(default_factory=dict)
    latency_ms: float | None = None
    resident_bytes: int | None = None
    seeds: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()
    logits_agreement: str = "bitwise"
    device: str = ""
    at: str = ""
    drops: Mapping[str, Drop] = field(default_factory=dict)

    AGREEMENTS: ClassVar[tuple[str, ...]] = ("bitwise", "1e-5", "none")

    def __post_init__(self) -> None:
        """Every number is finite."""
        _check_metrics(self.metrics, "Verification.metrics")
        require(
            self.logits_agreement in self.AGREEMENTS,
            f"Verification.logits_agreement: expected one of {self.AGREEMENTS}",
        )

    @property
    def verified(self) -> bool:
        """Whether everything agreed."""
        return not self.problems
