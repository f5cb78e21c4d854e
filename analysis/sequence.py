"""The order in which a front is tested, and what of it that certifies.

Each point is tested at the full level, and the first failure ends it: see
:func:`analysis.stats.certify`. Any order that knows nothing of test keeps the error over the whole
front. That of today has the points first which answer validation most like dense: how many examples
changed sides says how far a model can have moved, and unlike the score it is not what the search
chose by, so no luck flatters it. On a front of two objectives the score orders as the size does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.columns import Point
from analysis.stats import certify

__all__ = ["BY_CHANGES", "BY_SIZE", "Tested", "sequence"]

BY_CHANGES = "fewest validation examples that change sides against dense first"
BY_SIZE = "smallest compression first"
"""That of studies of before validation was compared example by example, and of other metrics."""


@dataclass(frozen=True)
class Tested:
    """What testing in order came to.

    ``certified`` are the points before the first failure, in order; ``failed`` is that one, None
    if all passed. ``after`` are points behind it whose own bound is within the margin all the same:
    not certified. ``order`` says in words how they were ordered.
    """

    certified: tuple[Point, ...] = ()
    failed: Point | None = None
    after: tuple[Point, ...] = ()
    order: str = BY_SIZE


def sequence(tested: Sequence[Point], margin: float) -> Tested:
    """Test the points of a front in the order that validation gives them, whatever its axes."""
    order, words = sorted(tested, key=lambda point: point.number("ratio") or 0.0), BY_SIZE
    changes = {id(point): _changes(point) for point in order}
    if None not in changes.values():
        order, words = sorted(order, key=lambda point: changes[id(point)] or 0), BY_CHANGES
    bounds = [point.dense.bound if point.dense else float("inf") for point in order]
    passed = certify(bounds, margin)
    after = [p for p, bound in zip(order, bounds, strict=True) if bound <= margin][passed:]
    failed = order[passed] if passed < len(order) else None
    return Tested(tuple(order[:passed]), failed, tuple(after), words)


def _changes(point: Point) -> int | None:
    """Validation examples that only one of the point and dense gets right; None if not compared."""
    pair = point.verification.on_validation.get("dense") if point.verification else None
    return None if pair is None else pair.only_reference + pair.only_model
