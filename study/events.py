"""What happens in a study, one frozen type an event. The study log is a list of these.

Everything else that is known of a study (:mod:`study.state`, Parquet, MLflow) is a view of it.
Times are seconds since 1970, UTC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from trainables.record import Record, Report, Trial, Verification
from trainables.serial import RecordError, Scalar, from_json, require, to_json

SEARCH = "search"
BASELINES = ("dense", "dense_recovered", "fp16", "int8")


@dataclass(frozen=True)
class Opened:
    """A process began to work on the study."""

    at: float
    identity: str
    versions: Mapping[str, str] = field(default_factory=dict)
    resumed: bool = False


@dataclass(frozen=True)
class Suggested:
    """The searcher asked for a trial. Baselines have a role of their own and a number below 0."""

    number: int
    role: str
    params: Mapping[str, Scalar]
    trial: Trial
    trial_id: str

    def __post_init__(self) -> None:
        """Number and role agree."""
        require(
            (self.number >= 0) == (self.role == SEARCH),
            f"Suggested: number {self.number} does not go with role {self.role!r}",
        )


@dataclass(frozen=True)
class Answered:
    """A suggestion that was run before under ``trial_id`` was answered from its record."""

    number: int
    trial_id: str


@dataclass(frozen=True)
class Started:
    """A worker began the trial, for the first time or again after an interruption."""

    number: int
    trial_id: str
    at: float


@dataclass(frozen=True)
class Reported:
    """A rung report."""

    number: int
    trial_id: str
    report: Report


@dataclass(frozen=True)
class Retried:
    """The trial ran out of memory. It is run once more, with no other trial beside it."""

    number: int
    trial_id: str
    error: str
    at: float


@dataclass(frozen=True)
class Ended:
    """The trial's final record."""

    number: int
    trial_id: str
    record: Record
    at: float


@dataclass(frozen=True)
class Verified:
    """A point was loaded from its file in a fresh process and scored on test."""

    verification: Verification


@dataclass(frozen=True)
class Closed:
    """The process left the study in good order after ``spent_seconds`` of work."""

    at: float
    reason: str
    spent_seconds: float


Event = Opened | Suggested | Answered | Started | Reported | Retried | Ended | Verified | Closed

KINDS: Mapping[str, type[Event]] = {
    "opened": Opened,
    "suggested": Suggested,
    "answered": Answered,
    "started": Started,
    "reported": Reported,
    "retried": Retried,
    "ended": Ended,
    "verified": Verified,
    "closed": Closed,
}
_NAMES = {cls: kind for kind, cls in KINDS.items()}


def encode(event: Event) -> str:
    """One line of ASCII JSON; the inverse of :func:`decode`."""
    data = {"kind": _NAMES[type(event)], **to_json(event)}
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def decode(text: str | bytes) -> Event:
    """The inverse of :func:`encode`.

    Raises:
        RecordError: an unknown kind or a field that breaks its rule; names it.
    """
    data = json.loads(text)
    require(isinstance(data, dict), f"event: expected an object, got {data!r}")
    kind = data.pop("kind", None)
    if kind not in KINDS:
        raise RecordError(
            f"event: unknown kind {kind!r}; this version knows {', '.join(KINDS)}, "
            "a later one may have written it: upgrade"
        )
    return from_json(KINDS[kind], data, kind)
