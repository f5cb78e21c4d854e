"""Three objectives at a time: each pair of them, with the front over all three."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis import fronts, units
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.columns import Axis, setting
from analysis.objectives import Trade
from trainables.record import Direction

__all__ = ["three_objectives"]

MOST_OTHERS = 600
"""Dominated points drawn, those nearest to the front: of thousands no reader sees one."""

Mask = NDArray[np.bool_]


def three_objectives(trade: Trade) -> Chart:
    """A panel for each pair of objectives."""
    names = [_name(axis) for axis in trade.axes]
    front = trade.front
    others = _nearest(trade)
    left = int((~front).sum()) - len(others)
    return Chart(
        f"{', '.join(names[:-1])} and {names[-1]}",
        f"{units.counted(int(front.sum()), 'trial')} of {len(front):,} are on the front over all "
        f"{len(names)}, on validation. Filled: also on the front of the two that are drawn, "
        "joined by a line; hollow: there for what the third objective makes of them. Grey: "
        "dominated." + (f" Not drawn: {left:,} further from the front." if left else ""),
        [_panel(trade, a, b, others) for a, b in trade.pairs],
        columns=3,
    )


def _nearest(trade: Trade) -> NDArray[np.int64]:
    layers = fronts.ranks(trade.losses)
    order = np.argsort(layers, kind="stable")
    return np.asarray(order[layers[order] > 0][:MOST_OTHERS])


def _name(axis: Axis) -> str:
    return axis.name.removeprefix("val_").replace("_", " ")


def _panel(trade: Trade, down: int, across: int, others: NDArray[np.int64]) -> Panel:
    """The first of the pair on the vertical axis."""
    x, y = trade.axes[across], trade.axes[down]
    pair, front = trade.front_of(down, across), trade.front
    both, third = np.flatnonzero(front & pair), np.flatnonzero(front & ~pair)
    # In the order of the losses each holds up to the next.
    both = both[np.argsort(trade.losses[both, across], kind="stable")]
    line = replace(_points(trade, "front of these two", both, across, down), mark=Mark.STEP)
    groups = [
        _points(trade, "dominated", others, across, down, muted=True),
        line,
        _points(trade, "front of these two", both, across, down),
        _points(trade, "front by the third", third, across, down, hollow=True),
    ]
    return Panel(
        f"{_name(y)} against {_name(x)}",
        _scale(trade, across),
        _scale(trade, down),
        [series for series in groups if len(series.x)],
    )


def _points(
    trade: Trade,
    name: str,
    rows: NDArray[np.int64],
    across: int,
    down: int,
    muted: bool = False,
    hollow: bool = False,
) -> Series:
    return Series(
        name,
        Mark.POINTS,
        trade.values[rows, across].tolist(),
        trade.values[rows, down].tolist(),
        texts=[f"trial {trade.rows[i].number}: {setting(trade.rows[i])}" for i in rows],
        trials=[trade.rows[i].record.trial_id for i in rows],
        colour=None if muted else "front",
        muted=muted,
        hollow=hollow,
    )


def _scale(trade: Trade, column: int) -> Scale:
    """Sizes span orders of magnitude, metrics do not."""
    axis, values = trade.axes[column], trade.values[:, column]
    is_metric = axis.name.startswith("val_")
    return Scale(
        axis.label,
        log=not is_metric and bool(values.min() > 0),
        percent=axis.objective.is_fraction,
        reversed=axis.objective.direction is Direction.MINIMIZE and is_metric,
    )
