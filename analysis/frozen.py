"""The front as a study decided it, before test was read: `study.json` says it under "front"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.columns import SIZES, Axis, Point, Value
from analysis.load import Row, StudyData, StudyDataError
from analysis.stats import mean_interval
from trainables.record import Objective

__all__ = ["Member", "among", "declared", "frozen", "over_seeds"]


@dataclass(frozen=True)
class Member:
    """A point of the front: the run whose file ships, and all its runs, one a seed.

    ``mean``, ``low`` and ``high`` are the validation metric's over seeds, with its 95% interval;
    ``probability`` is how often the point is on the front when seeds are drawn anew. None where
    nothing was run again.
    """

    trial_id: str
    replicates: tuple[str, ...] = ()
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    probability: float | None = None


def declared(study: StudyData, x: str, y: Objective) -> list[Axis] | None:
    """The objectives beyond these two; None where the study does not trade just these two.

    A study states its primary metric first, then log2 of the ratio, then any other.
    """
    names = [str(stated["name"]) for stated in study.info.get("objectives", ())]
    axes = [name.removeprefix("log2_") for name in names[1:]]
    if not names or names[0] != y.name or x not in axes:
        return None
    return [SIZES[name] for name in axes if name != x and name in SIZES]


def frozen(study: StudyData, x: str, y: Objective) -> list[Member] | None:
    """Who is on the front; None where it was not decided, or over other axes than these.

    Raises:
        StudyDataError: what stands there is no front.
    """
    stated: Any = study.info.get("front")
    nobody = bool(study.info.get("shortfall"))  # meets the constraints: nobody is on the front
    if not (stated or nobody) or declared(study, x, y) is None:
        return None
    try:
        return [Member(**{**one, "replicates": tuple(one["replicates"])}) for one in stated]
    except (TypeError, KeyError) as error:
        raise StudyDataError(f"{study.name}: study.json: front: {error}") from error


def among(study: StudyData, members: Sequence[Member]) -> list[Row]:
    """The members' rows.

    Raises:
        StudyDataError: a member without a record.
    """
    rows = {row.record.trial_id: row for row in study.rows}
    if lost := [member.trial_id for member in members if member.trial_id not in rows]:
        raise StudyDataError(
            f"{study.name}: no record of {', '.join(lost)}, which study.json has on the front"
        )
    return [rows[member.trial_id] for member in members]


def over_seeds(study: StudyData, point: Point, member: Member, y: Objective) -> Mapping[str, Value]:
    """What a member's runs came to: on validation as it was frozen, on test as it was scored."""
    short = y.name.removeprefix("val_")
    checks = [study.verifications.get(i) for i in member.replicates]
    scores = [v.metrics[short] for v in checks if v and short in v.metrics]
    test = mean_interval(scores)
    return {
        "seeds": len(member.replicates),
        "val_mean": member.mean,
        "val_low": member.low,
        "val_high": member.high,
        "probability": member.probability,
        "test_mean": test.value if test else point.number(f"test_{short}"),
        "test_low": test.lower if test else None,
        "test_high": test.upper if test else None,
    }
