"""Studies compared: everything that is said of them, each made once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from analysis.charts.chart import Chart
from analysis.charts.rivals import fronts_beside
from analysis.columns import Value, metric, setting
from analysis.studies.contest import (
    Difference,
    Place,
    differences,
    dominated,
    over_repeats,
    places,
    volume,
)
from analysis.studies.rivals import Field

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """Rivals, and what is said of them."""

    field: Field

    @cached_property
    def chart(self) -> Chart:
        """The fronts on one pair of axes."""
        return fronts_beside(self.field)

    @cached_property
    def differences(self) -> Sequence[Difference]:
        """Of the hypervolumes; not of single studies of groups that are compared as such."""
        groups = self.field.repeats if self.over_repeats else ()
        grouped = {rival.name for group in groups for rival in group}
        pairs = differences(self.field) if len(grouped) < len(self.field.rivals) else ()
        return [one for one in pairs if not {one.first, one.second} <= grouped]

    @cached_property
    def over_repeats(self) -> Sequence[Difference]:
        """The same between groups of studies that repeat each other."""
        return over_repeats(self.field)

    @cached_property
    def places(self) -> Sequence[Place]:
        """Who is ahead where."""
        return places(self.field)

    @cached_property
    def volumes(self) -> Mapping[str, float]:
        """Hypervolume by rival."""
        return {rival.name: volume(rival, self.field.reference) for rival in self.field.rivals}

    def members(self) -> Iterator[dict[str, Value]]:
        """Every point of every front, with the studies that beat it."""
        y = self.field.y
        fronts = {r.name: [losses for _, losses in r.front] for r in self.field.rivals}
        for rival in self.field.rivals:
            for row, losses in rival.front:
                others = (name for name in fronts if name != rival.name)
                yield {
                    "study": rival.name,
                    "trial_id": row.record.trial_id,
                    "number": row.number,
                    "setting": setting(row),
                    "compared": y.value(float(losses[0])),
                    y.name: metric(row, y.name),
                    "ratio": getattr(row.record.outcome.size, "ratio", None),
                    "dominated_by": ", ".join(o for o in others if dominated(losses, fronts[o])),
                }
