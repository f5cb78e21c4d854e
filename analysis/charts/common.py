"""Axes that small multiples have in common, so that their panels can be compared by eye."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from analysis import units
from analysis.charts.chart import Chart, Mark, Panel, Scale

__all__ = ["in_common"]

FAR, PAD = 3.0, 0.05


def in_common(chart: Chart) -> Chart:
    """The chart with both axes the same in all its panels, which have numbers on them.

    What lies far out, by more than three interquartile ranges beyond the quartiles, would press all
    else into a corner: it is left outside of y, and the note says how many values are.
    """
    if len(chart.panels) < 2:
        return chart
    x = np.array([v for panel in chart.panels for v in _places(panel)])
    y = np.array([v for panel in chart.panels for v in _values(panel)])
    low, high = np.quantile(y, [0.25, 0.75])
    reach = FAR * (high - low)
    near = y[(y >= low - reach) & (y <= high + reach)] if reach else y
    outside = len(y) - len(near)
    one = chart.panels[0]
    ranges = {"x": _padded(one.x, x), "y": _padded(one.y, near)}
    note = f" Beyond the common axis: {units.counted(outside, 'value')}." if outside else ""
    return replace(chart, ranges=ranges, note=chart.note + note)


def _places(panel: Panel) -> Iterator[float]:
    yield from (v for series in panel.series for v in series.x if not isinstance(v, str))


def _values(panel: Panel) -> Iterator[float]:
    """What is drawn: of bands the edges alone."""
    for series in panel.series:
        if series.mark is not Mark.BAND:
            yield from (v for v in series.y if not isinstance(v, str))
        yield from (v for v in (*series.low, *series.high) if v is not None)


def _padded(scale: Scale, values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if scale.log:
        pad = max((high / low) ** PAD, 1.05)
        return low / pad, high * pad
    pad = PAD * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad
