"""Every trial and baseline that a report draws, as a flat row."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.columns import Point, Value
from analysis.findings import Findings

__all__ = ["trials"]


def trials(found: Findings) -> Iterator[dict[str, Value]]:
    """Front, dominated trials and baselines, each with all metrics it was scored in.

    ``place`` is ``front``, ``dominated`` or ``baseline``; ``role`` is that of the trial's record.
    ``test_worst`` and ``test_best`` are the ends of the test score's 90% interval against dense.
    """
    places = {
        "front": found.front,
        "dominated": found.others,
        "baseline": tuple(found.baselines.values()),
    }
    for place, points in places.items():
        for point in points:
            start: dict[str, Value] = {
                "number": point.row.number,
                "role": point.row.role,
                "place": place,
            }
            yield start | _metrics(point) | point.values | _interval(point, found)


def _metrics(point: Point) -> dict[str, Value]:
    splits = dict(point.outcome.metrics)
    if point.verification:
        splits["test"] = point.verification.metrics
    named = {f"{split}_{name}": v for split, of in splits.items() for name, v in of.items()}
    return {**named, "trial_latency_ms": point.outcome.latency_ms}


def _interval(point: Point, found: Findings) -> dict[str, Value]:
    test = point.number("test_" + found.y.name.removeprefix("val_"))
    if point.dense is None or test is None:
        return {}
    worst, best = point.dense.around(test, found.y)
    return {"test_worst": worst, "test_best": best}
