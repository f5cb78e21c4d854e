"""The core types: what was asked, what was measured, where it ran. Standard library only.

Every type is frozen, checks itself when made, and goes to JSON and back without loss
(:mod:`trainables.serial`). What was measured is defined in :mod:`trainables.measured`, what was
verified in :mod:`trainables.verified`; all of it is imported from here.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from trainables.measured import OUT_OF_MEMORY, Outcome, Parts, Report, Size, Status
from trainables.serial import (
    RecordError,
    Scalar,
    canonical,
    check_scalar,
    digest,
    from_json,
    parse_json,
    plain_float,
    require,
    to_json,
)
from trainables.verified import COUNTED, Bounds, Drop, Paired, Verification

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
    "Subject",
    "Trial",
    "Verification",
    "canonical",
    "from_json",
    "parse_json",
    "to_json",
]

SCHEMA = 1
PRECISIONS = ("float32", "bfloat16", "float16")


class Direction(StrEnum):
    """Which way an objective is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


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
    without an adapter, and with one that has no rank; else it is clamped for each layer to
    min(in, out).
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
class Subject:
    """In words, what a study's scores are of: published figures are held against it.

    Empty is not stated, and equals nothing.
    """

    model: str = ""
    data: str = ""
    split: str = ""


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

    @cached_property  # asked for often, and hashed from all that was asked
    def trial_id(self) -> str:
        """See :meth:`Trial.trial_id`."""
        return self.trial.trial_id(self.origin.fingerprint)

    @property
    def config_id(self) -> str:
        """See :meth:`Trial.config_id`."""
        return self.trial.config_id(self.origin.fingerprint)
