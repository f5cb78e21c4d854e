"""What a study's records say: front, knee, choice and certificate, before it is written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from analysis import fronts
from analysis.alike import check_alike
from analysis.columns import SIZES, Axis, Point, front, points, y_objective
from analysis.frozen import Member, among, declared, frozen, over_seeds
from analysis.load import StudyData, StudyDataError
from analysis.published import Placed, asked_systems, placed, subject_of
from analysis.sequence import Entry, Tested, sequence
from analysis.stats import MARGIN
from trainables.record import Objective, Status

__all__ = ["Findings", "findings"]

SEARCHED = ("search", "confirm")
"""Roles of trials that are no baselines: the search's own, and their runs with other seeds."""


@dataclass(frozen=True)
class Findings:
    """What a report says.

    ``chosen`` is the smallest model within ``margin`` of dense on validation; ``certified`` that on
    the front whose test drop is certified within it: points of a fraction, a share of dense's value
    of any other metric; never by too few groups of alike examples. ``tested`` is the sequence that
    certified it, ``failed_first`` where that ended. ``skipped`` are front points
    that were not tested and so take no part in certification. ``published`` are the points of the
    published systems that were asked for. ``decided`` is whether the front is the study's own, held
    to its constraints, and not one over records alone. ``own`` is what the study says over its own
    axes where these are others: a front drawn after test was read certifies nothing. ``study_at``
    is where the study's folder is, as seen from that of the report; None if no way leads there.
    """

    study: StudyData
    axis: Axis
    y: Objective
    front: tuple[Point, ...]
    others: tuple[Point, ...]
    baselines: dict[str, Point]
    knee: Point | None
    chosen: Point | None
    tested: Tested[Point]
    skipped: int
    margin: float = MARGIN
    published: tuple[Placed, ...] = ()
    decided: bool = False
    own: Findings | None = None
    study_at: str | None = ".."

    @property
    def certified(self) -> Point | None:
        """See the class."""
        sizes = self.axis.objective
        return min(
            self.tested.certified,
            key=lambda p: sizes.loss(p.number(self.axis.name) or 0.0),
            default=None,
        )

    @property
    def failed_first(self) -> Point | None:
        """See the class."""
        return self.tested.failed


def findings(
    study: StudyData,
    x: str = "ratio",
    y: str | None = None,
    margin: float = MARGIN,
    published: Collection[str] | None = None,
) -> Findings:
    """Front, knee, choice and certificate of a study, beside published points.

    ``published`` are systems to show instead of those that the study's config names.

    Raises:
        StudyDataError: No finished trial with an artifact, a metric that no trial has, records of
            several tasks, splits or dense models, or a published system that is unknown.
    """
    axis, objective = SIZES[x], y_objective(study, y)
    check_alike(study)
    drawn, on_front = _front(study, axis, objective)
    if not drawn:
        raise StudyDataError(_nothing(study, x, objective))
    others = [r for r in study.rows if r.role == "search" and r.record.trial_id not in on_front]
    roles = [r for r in study.rows if r.role not in SEARCHED and r.record.outcome.metrics]
    baselines = dict(zip([r.role for r in roles], points(study, roles, objective), strict=True))
    own = None if _is_own(study, x, objective) else findings(study, margin=margin)
    tested = [
        Entry(p, p.number("ratio") or 0.0, p.verification, p.dense.bound)
        for p in drawn
        if p.values["verified"] and p.dense
    ]
    return Findings(
        study,
        axis,
        objective,
        tuple(drawn),
        tuple(points(study, [r for r in others if r.record.outcome.metrics], objective)),
        baselines,
        _knee(drawn, axis, objective),
        _chosen(drawn, baselines.get("dense"), objective, margin),
        Tested() if own else sequence(tested, margin),
        len(drawn) - len(tested),
        margin,
        placed(asked_systems(study.info, published), subject_of(study.info), objective, x),
        frozen(study, x, objective) is not None,
        own,
    )


def _is_own(study: StudyData, x: str, y: Objective) -> bool:
    """Whether these are the axes on which the study chose, before it read test."""
    return declared(study, x, y) is not None or (x, y) == ("ratio", y_objective(study))


def _front(study: StudyData, axis: Axis, y: Objective) -> tuple[list[Point], set[str]]:
    """The front, smallest compression first, and the trial ids of all runs of its points.

    As the study decided it, before it read test; while it has not, by its records.
    """
    members = frozen(study, axis.name, y)
    if members is None:
        rows = front(study.rows, axis.name, y, declared(study, axis.name, y) or ())
        return points(study, rows, y), {row.record.trial_id for row in rows}
    drawn = points(study, among(study, members), y)
    if any(member.probability is not None for member in members):
        drawn = [_with_seeds(study, p, m, y) for p, m in zip(drawn, members, strict=True)]
    drawn.sort(key=lambda p: -axis.objective.loss(p.number(axis.name) or 0.0))
    return drawn, {i for member in members for i in (member.trial_id, *member.replicates)}


def _with_seeds(study: StudyData, point: Point, member: Member, y: Objective) -> Point:
    return replace(point, values=point.values | dict(over_seeds(study, point, member, y)))


def _nothing(study: StudyData, x: str, y: Objective) -> str:
    searched = [r for r in study.rows if r.role == "search"]
    where = study.location or study.name
    if not searched:
        return f"{where}: no finished trial yet, only baselines; let the study run"
    found = Counter(r.record.outcome.status for r in searched)
    causes = Counter(r.record.outcome.error for r in searched if r.record.outcome.error)
    if found[Status.FAILED] + found[Status.OUT_OF_MEMORY] == len(searched):
        cause, count = causes.most_common(1)[0]
        return f"{where}: no trial finished: all {len(searched)} failed, {count} of them: {cause}"
    if shortfall := study.info.get("shortfall"):
        return f"{where}: {shortfall}"
    return f"{where}: none of {len(searched)} trials has an artifact with both {x} and {y.name}"


def _losses(drawn: Collection[Point], axis: Axis, y: Objective) -> np.ndarray:
    pairs = [(p.number(axis.name) or 0.0, p.score(y.name) or 0.0) for p in drawn]
    return np.array([(axis.objective.loss(np.log2(a)), y.loss(b)) for a, b in pairs])


def _knee(drawn: list[Point], axis: Axis, y: Objective) -> Point | None:
    at = fronts.knee(_losses(drawn, axis, y))
    return None if at is None else drawn[at]


def _chosen(drawn: list[Point], dense: Point | None, y: Objective, margin: float) -> Point | None:
    limit = dense.number(y.name) if dense else None
    if limit is None:
        return None
    # Accuracies are counts / n: the slack keeps a drop of exactly the margin within it.
    allowed = y.allowance(margin, limit) + 1e-12
    within = [p for p in drawn if y.loss(p.score(y.name) or 0.0) - y.loss(limit) <= allowed]
    return within[-1] if within else None
