"""What trials that were stopped early would have come to."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from study.objectives import Aim, final, standing
from trainables.record import Outcome

LEAST = 3  # completed trials to predict from


class Gains:
    """How much completed trials gained from each epoch to their end, in the primary metric.

    A trial that was stopped at epoch e is predicted to end at the loss of its last report plus the
    median over completed trials of (loss at the end - loss at e); its other losses stay as they
    are. Whatever ends later changes nothing of an earlier prediction.
    """

    def __init__(self, aims: Sequence[Aim]) -> None:
        self._aims = tuple(aims)
        self._gains: defaultdict[int, list[float]] = defaultdict(list)

    def add(self, outcome: Outcome) -> None:
        """A trial completed."""
        if (end := final(self._aims, outcome)) is None:
            return
        for report in outcome.curve:
            if (now := standing(self._aims, report, outcome)) is not None:
                insort(self._gains[report.epochs_done], end[0] - now[0])

    def predict(self, outcome: Outcome) -> tuple[float, ...] | None:
        """The losses of a stopped trial at the full budget; None before three have completed."""
        end = final(self._aims, outcome)
        now = standing(self._aims, outcome.curve[-1], outcome) if outcome.curve else None
        if end is None or now is None:
            return None
        gains = self._gains[outcome.curve[-1].epochs_done]
        return (now[0] + median(gains), *end[1:]) if len(gains) >= LEAST else None
