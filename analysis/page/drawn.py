"""A chart as plain data, with the look of each series."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from analysis.charts.chart import Chart, Series
from analysis.charts.looks import Looks, look_of, looks
from analysis.plot_style import ink_on, shades_of

__all__ = ["drawn"]

COLUMNS = ("x", "y", "low", "high", "shade", "texts", "trials")


def drawn(chart: Chart) -> dict[str, Any]:
    """Title, note and panels; of a series what is empty is left out."""
    found = looks(chart)
    panels = [
        {
            "title": panel.title,
            "x": asdict(panel.x),
            "y": asdict(panel.y),
            "series": [_series(series, found) for series in panel.series],
        }
        for panel in chart.panels
    ]
    return {
        "title": chart.title,
        "note": chart.note,
        "columns": min(chart.columns, len(panels)),
        "ranges": {way: list(ends) for way, ends in chart.ranges.items()},
        "panels": panels,
    }


def _series(series: Series, found: Looks) -> dict[str, Any]:
    look = look_of(series, found)
    inks = [shade and ink_on(shade) for shade in shades_of(series.shade)]
    columns = {name: getattr(series, name) for name in COLUMNS}
    return {
        "name": series.name,
        "mark": series.mark.value,
        **{name: list(values) for name, values in columns.items() if values},
        "colour": look.colour,
        "shape": look.shape,
        "dash": look.dash,
        "muted": series.muted,
        "hollow": series.hollow,
        **({"percent": series.percent, "inks": inks} if inks else {}),
    }
