"""Every trial and baseline that a report draws, as a flat row."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.columns import Point, Value
from analysis.findings import Findings
from analysis.settings import whole

__all__ = ["placed", "trials", "written"]


def trials(found: Findings) -> Iterator[dict[str, Value]]:
    """Front, dominated trials and baselines, each with all metrics it was scored in.

    ``place`` is ``front``, ``dominated`` or ``baseline``; ``role`` is that of the trial's record.
    ``test_worst`` and ``test_best`` are the ends of the test score's 90% interval against dense.
    """
    for place, point in placed(found):
        start: dict[str, Value] = {
            "number": point.row.number,
            "role": point.row.role,
            "place": place,
        }
        yield start | _metrics(point) | written(point, found) | _interval(point, found)


def written(point: Point, found: Findings) -> dict[str, Value]:
    """A point's values as tables have them: all that was asked of it as its ``setting``."""
    asked = whole(point.row.record.trial, found.study.defaults)
    return {**point.values, "setting": asked}


def placed(found: Findings) -> Iterator[tuple[str, Point]]:
    """The points in the order of :func:`trials`, each with its place."""
    places = {
        "front": found.front,
        "dominated": found.others,
        "baseline": tuple(found.baselines.values()),
    }
    for place, points in places.items():
        yield from ((place, point) for point in points)


def _metrics(point: Point) -> dict[str, Value]:
    splits = dict(point.outcome.metrics)
    if point.verification:
        splits["test"] = point.verification.metrics
    return {f"{split}_{name}": v for split, of in splits.items() for name, v in of.items()}


def _interval(point: Point, found: Findings) -> dict[str, Value]:
    test = point.number("test_" + found.y.name.removeprefix("val_"))
    if point.dense is None or test is None:
        return {}
    worst, best = point.dense.around(test, found.y)
    return {"test_worst": worst, "test_best": best}
