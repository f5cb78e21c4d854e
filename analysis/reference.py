"""The worst corner, up to which hypervolumes are counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.columns import metric
from analysis.load import Row, StudyData
from trainables.record import Objective

__all__ = ["Corner", "corner", "losses"]


@dataclass(frozen=True)
class Corner:
    """A reference: a value of the metric and of log2 of the ratio; ``stated`` by the study."""

    value: float
    log2_ratio: float
    stated: bool

    def loss(self, y: Objective) -> tuple[float, float]:
        """The corner as losses, the metric's and that of log2 of the ratio."""
        return y.loss(self.value), -self.log2_ratio


def losses(row: Row, y: Objective) -> tuple[float, float] | None:
    """A trial as losses (the metric's, that of log2 of the ratio); None if it has no file."""
    outcome, value = row.record.outcome, metric(row, y.name)
    if value is None or outcome.size is None or not outcome.sha256:
        return None
    return y.loss(value), -math.log2(outcome.size.ratio)


def corner(studies: Sequence[StudyData], y: Objective) -> Corner | None:
    """The reference that the studies state alike, else the worst that was measured in them.

    Returns:
        None where nothing was measured.
    """
    stated = [_stated(study, y) for study in studies]
    if stated[0] is not None and all(one == stated[0] for one in stated):
        return stated[0]
    return _worst((row for study in studies for row in study.rows), y)


def _stated(study: StudyData, y: Objective) -> Corner | None:
    given = study.info.get("reference", {})
    if y.name not in given or "log2_ratio" not in given:
        return None
    return Corner(float(given[y.name]), float(given["log2_ratio"]), stated=True)


def _worst(rows: Iterable[Row], y: Objective) -> Corner | None:
    found = [pair for row in rows if (pair := losses(row, y)) is not None]
    if not found:
        return None
    return Corner(y.value(max(a for a, _ in found)), -max(b for _, b in found), stated=False)
