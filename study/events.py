"""What happens in a study, one frozen type an event. The study log is a list of these.

Everything else that is known of a study (:mod:`study.state`, Parquet, MLflow) is a view of it.
Times are seconds since 1970, UTC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from study.upgrades import marked, upgraded
from trainables.record import Record, Report, Trial, Verification
from trainables.serial import (
    RecordError,
    Scalar,
    from_json,
    parse_json,
    require,
    shown,
    to_json,
)

SEARCH = "search"
CONFIRM = "confirm"  # a point of the front again, with another seed
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
            (self.number >= 0) == (self.role in (SEARCH, CONFIRM)),
            f"Suggested: number {self.number} does not go with role {self.role!r}",
        )


@dataclass(frozen=True)
class Inherited:
    """An earlier study's record, taken over as a result of this one's search (``--warm-start``).

    ``source`` names that study. It costs no budget.
    """

    number: int
    params: Mapping[str, Scalar]
    trial_id: str
    record: Record
    source: str


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


class Cause(StrEnum):
    """Why a trial is run once more.

    It ran out of ``memory``: once more, with no other trial beside it. Its ``worker`` died: so many
    times as the study allows. The ``node`` went away, or the ``storage`` took no file: not the
    trial's fault.
    """

    MEMORY = "memory"
    WORKER = "worker"
    NODE = "node"
    STORAGE = "storage"


@dataclass(frozen=True)
class Retried:
    """The trial was put back, to be run again: from its last checkpoint, where there is one."""

    number: int
    trial_id: str
    error: str
    at: float
    cause: Cause = Cause.MEMORY


@dataclass(frozen=True)
class Ended:
    """The trial's final record."""

    number: int
    trial_id: str
    record: Record
    at: float


@dataclass(frozen=True)
class Member:
    """A point of the reported front, and the runs it stands on.

    ``trial_id`` is the run whose file ships, ``replicates`` are all of them, by seed, that one
    included. ``mean`` is that of the primary metric on validation over these, between the bounds
    ``low`` and ``high`` of its 95% interval (None with one run); ``probability`` that the point
    belongs to the front, by resampling seeds (None with one run).
    """

    trial_id: str
    replicates: tuple[str, ...] = ()
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    probability: float | None = None


@dataclass(frozen=True)
class Frozen:
    """Who is on the front was decided, on validation, before test is read.

    ``candidates`` are the points that were looked at, members or not.
    """

    at: float
    members: tuple[Member, ...]
    candidates: tuple[Member, ...] = ()


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


Event = (
    Opened
    | Inherited
    | Suggested
    | Answered
    | Started
    | Reported
    | Retried
    | Ended
    | Frozen
    | Verified
    | Closed
)

KINDS: Mapping[str, type[Event]] = {
    "opened": Opened,
    "inherited": Inherited,
    "suggested": Suggested,
    "answered": Answered,
    "started": Started,
    "reported": Reported,
    "retried": Retried,
    "ended": Ended,
    "frozen": Frozen,
    "verified": Verified,
    "closed": Closed,
}
_NAMES = {cls: kind for kind, cls in KINDS.items()}


def encode(event: Event) -> str:
    """One line of ASCII JSON; the inverse of :func:`decode`."""
    data = marked({"kind": _NAMES[type(event)], **to_json(event)})
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def decode(text: str | bytes) -> Event:
    """The inverse of :func:`encode`, also of what earlier versions of this program wrote.

    Raises:
        RecordError: an unknown kind or a field that breaks its rule; names it.
    """
    data = parse_json(text)
    if not isinstance(data, dict):
        raise RecordError(f"event: expected an object, got {shown(data)}")
    data = upgraded(data)
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise RecordError(
            f"event: unknown kind {shown(kind)}; this version knows {', '.join(KINDS)}, "
            "a later one may have written it: upgrade Paretune"
        )
    try:
        return from_json(KINDS[kind], data, kind)
    except RecordError as error:
        raise RecordError(f"{error}; if a later version wrote it: upgrade Paretune") from None
