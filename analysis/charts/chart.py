"""A chart as data: drawn as a picture, on a page, and written down as a table, by others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Chart", "Mark", "Panel", "Scale", "Series"]

Coordinate = float | str


class Mark(StrEnum):
    """How a series is drawn. ``low`` and ``high`` are whiskers, or the edges of a band.

    They are of ``y``; of ``x`` where ``y`` are names, as those of bars that lie.
    """

    POINTS = "points"
    LINE = "line"
    STEP = "step"  # a value holds until the next one
    BAND = "band"
    BARS = "bars"
    CELLS = "cells"  # of a map: x and y are names, ``shade`` is the value


@dataclass(frozen=True)
class Scale:
    """One axis. ``percent`` axes hold fractions; a ``reversed`` one has small values at its end."""

    label: str
    log: bool = False
    percent: bool = False
    reversed: bool = False


@dataclass(frozen=True)
class Series:
    """Marks of one name in the legend; every sequence has the length of ``x``.

    Args:
        colour: What it shares its colour with, over all panels; its own name by default.
        muted: Drawn in grey, behind the others.
        hollow: Points as outlines.
        texts: What is said of each mark.
        trials: Ids of the trials that the marks are of, whose whole settings a page tells.
        percent: Whether shades are of fractions.
    """

    name: str
    mark: Mark
    x: Sequence[Coordinate]
    y: Sequence[Coordinate]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    shade: Sequence[float | None] = ()
    texts: Sequence[str] = ()
    trials: Sequence[str] = ()
    colour: str | None = None
    muted: bool = False
    hollow: bool = False
    percent: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError: sequences of unequal lengths."""
        for name in ("y", "low", "high", "shade", "texts", "trials"):
            given = getattr(self, name)
            if (given or name == "y") and len(given) != len(self.x):
                raise ValueError(f"{self.name}: {len(self.x)} x, {len(given)} {name}")


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x: Scale
    y: Scale
    series: Sequence[Series]


@dataclass(frozen=True)
class Chart:
    """Small multiples of one question.

    Args:
        title: What is asked or found, in a few words.
        note: How to read it, and what it does not show; "descriptive" where trials were chosen
            by a searcher and are no designed experiment.
        columns: Panels side by side.
        ranges: Ends that all panels have in common, by ``x`` and ``y``, as
            :func:`analysis.charts.common.in_common` finds them; else a panel's own.
    """

    title: str
    note: str
    panels: Sequence[Panel]
    columns: int = 1
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def rows(self) -> Iterator[dict[str, Coordinate | None]]:
        """Everything that is drawn, a row a mark."""
        for panel in self.panels:
            for series in panel.series:
                for at in range(len(series.x)):
                    yield {
                        "panel": panel.title,
                        "series": series.name,
                        "x": series.x[at],
                        "y": series.y[at],
                        "low": series.low[at] if series.low else None,
                        "high": series.high[at] if series.high else None,
                        "shade": series.shade[at] if series.shade else None,
                        "text": series.texts[at] if series.texts else None,
                        "trial_id": series.trials[at] if series.trials else None,
                    }
