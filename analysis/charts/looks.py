"""Which colour and marker a name has in all panels of a chart, in pictures and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.charts.chart import Chart, Series
from analysis.plot_style import PALE, PALETTE

__all__ = ["DASHES", "SHAPES", "Look", "look_of", "looks"]

# As matplotlib names them; seven beside eight colours, so that both repeat after 56 names only.
SHAPES = ("o", "s", "^", "v", "P", "X", "p")
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Look:
    """A colour, and numbers in :data:`SHAPES` and :data:`DASHES`.

    Names have colours and shapes of their own. What is muted is grey, told apart by its dashes.
    """

    colour: str
    shape: int = 0
    dash: int = 0


Looks = Mapping[tuple[str, bool], Look]


def looks(chart: Chart) -> Looks:
    """By what a series shares its look by, and whether it is muted, in order of appearance."""
    keys = dict.fromkeys(_key(one) for panel in chart.panels for one in panel.series)
    muted = {key: Look(PALE, dash=i % len(DASHES)) for i, key in enumerate(filter(_muted, keys))}
    bright = [key for key in keys if not _muted(key)]
    return muted | {
        key: Look(PALETTE[i % len(PALETTE)], i % len(SHAPES)) for i, key in enumerate(bright)
    }


def look_of(series: Series, found: Looks) -> Look:
    """The look of one series."""
    return found[_key(series)]


def _key(series: Series) -> tuple[str, bool]:
    return series.colour or series.name, series.muted


def _muted(key: tuple[str, bool]) -> bool:
    return key[1]
