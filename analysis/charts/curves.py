"""How the metric grows while a trial trains, by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis import units
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.charts.common import in_common
from analysis.charts.tried import Tried, grouped, metric_scale, tried
from analysis.findings import Findings

__all__ = ["learning_curves"]

MOST_PANELS, MOST_LINES = 12, 30
BANDS = ((0.05, 0.95), (0.25, 0.75))
"""Quantiles drawn instead of more than ``MOST_LINES`` lines."""

OF_BANDS = (
    f"More than {MOST_LINES} are drawn as bands of the middle 90% and 50% of them and their "
    "median, at each epoch over the trials that came so far: what was stopped early is no longer "
    "in it, by which alone a band may rise. "
)
Curve = Mapping[int, float]
_Trained = Sequence[tuple[Tried, Curve]]


def learning_curves(found: Findings) -> Chart | None:
    """The metric by epoch; None where no trial reported after more than one epoch."""
    curves = ((one, _curve(found, one)) for one in tried(found))
    methods = grouped((one.method, (one, curve)) for one, curve in curves if len(curve) > 1)
    if not methods:
        return None
    shown = sorted(methods, key=lambda name: (-len(methods[name]), name))[:MOST_PANELS]
    left = len(methods) - len(shown)
    crowded = any(len(methods[name]) > MOST_LINES for name in shown)
    chart = Chart(
        f"{units.name(found.y).capitalize()} by epoch",
        "In colour: trials on the front; in grey: the others. "
        + (OF_BANDS if crowded else "")
        + "A record keeps the best epoch, not the last."
        + (f" Left out: {units.counted(left, 'method')} with fewer trials." if left else ""),
        [_panel(found, name, methods[name]) for name in sorted(shown)],
        columns=min(3, len(shown)),
    )
    return in_common(chart)


def _curve(found: Findings, one: Tried) -> Curve:
    """The metric by epochs done; the last report of an epoch counts."""
    name = found.y.name.removeprefix("val_")
    reports = one.row.record.outcome.curve
    return {r.epochs_done: r.metrics[name] for r in reports if name in r.metrics}


def _panel(found: Findings, method: str, trained: _Trained) -> Panel:
    members = {id(point.row) for point in found.front}
    coloured = [pair for pair in trained if id(pair[0].row) in members]
    others = [pair for pair in trained if id(pair[0].row) not in members]
    crowd = _bands if len(others) > MOST_LINES else _lines
    series = [*crowd(others), *(_line("on the front", *pair) for pair in coloured)]
    return Panel(method, Scale("epoch"), metric_scale(found.y), series)


def _lines(trained: _Trained) -> list[Series]:
    return [_line("others", *pair, muted=True) for pair in trained]


def _line(name: str, one: Tried, curve: Curve, muted: bool = False) -> Series:
    epochs = sorted(curve)
    return Series(
        name,
        Mark.LINE,
        [float(epoch) for epoch in epochs],
        [curve[epoch] for epoch in epochs],
        texts=[one.text] * len(epochs),
        trials=[one.trial_id] * len(epochs),
        muted=muted,
    )


def _bands(trained: _Trained) -> list[Series]:
    by_epoch: dict[int, list[float]] = {}
    for _, curve in trained:
        for epoch, value in curve.items():
            by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(by_epoch)
    x = [float(epoch) for epoch in epochs]
    texts = [f"{units.counted(len(by_epoch[epoch]), 'trial')} came so far" for epoch in epochs]
    middle = [float(np.median(by_epoch[epoch])) for epoch in epochs]
    found = []
    for ends in BANDS:
        low, high = ([float(np.quantile(by_epoch[e], end)) for e in epochs] for end in ends)
        name = f"middle {100 * (ends[1] - ends[0]):.0f}% of the others"
        found.append(
            Series(name, Mark.BAND, x, middle, low=low, high=high, texts=texts, muted=True)
        )
    return [*found, Series("median of the others", Mark.LINE, x, middle, texts=texts, muted=True)]
