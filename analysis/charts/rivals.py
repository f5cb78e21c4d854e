"""The fronts of several studies on one pair of axes, and how each grew."""

from __future__ import annotations

import math

import numpy as np

from analysis.charts.attainment import attainment_panel
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.charts.hypervolume import Effort, growth, growth_panels
from analysis.columns import AXES, setting
from analysis.studies.rivals import Field, Losses, Rival
from trainables.record import Direction

__all__ = ["fronts_beside"]


def fronts_beside(field: Field) -> Chart:
    """Fronts, hypervolume by trials and by cost; attainment where studies repeat each other."""
    efforts = {rival.name: _efforts(rival) for rival in field.rivals}
    steps = {name: growth(found, field.reference) for name, found in efforts.items()}
    timed = all(any(s is not None for _, s in found) for found in efforts.values())
    panels = [_fronts(field), *growth_panels(steps, timed), *_repeats(field)]
    return Chart(
        "Fronts, and how they grew",
        "Fronts over each search's own trials, on validation; what was run again with other seeds "
        "is not in it. Hypervolumes are up to one corner, the same for all. "
        + (
            f"Drawn is {field.label}: the studies do not share a scale. "
            if field.normalised
            else ""
        )
        + "Which search is better, one study of each does not tell: run each with several seeds.",
        panels,
        columns=2,
    )


def _efforts(rival: Rival) -> list[Effort]:
    return [
        (None if math.isnan(losses[0]) else (float(losses[0]), float(losses[1])), seconds)
        for losses, seconds in zip(
            rival.losses, (row.record.outcome.seconds for row in rival.rows), strict=True
        )
    ]


def _y(field: Field) -> Scale:
    percent = field.y.is_fraction or field.normalised
    return Scale(field.label, percent=percent, reversed=field.y.direction is Direction.MINIMIZE)


def _fronts(field: Field) -> Panel:
    series = [series for rival in field.rivals for series in _front(field, rival)]
    return Panel("fronts", Scale(AXES["ratio"].label, log=True), _y(field), series)


def _front(field: Field, rival: Rival) -> list[Series]:
    """The points, and the staircase that joins them."""
    front = rival.front
    if not front:
        return []
    x = [2.0 ** float(-losses[1]) for _, losses in front]
    y = [field.y.value(float(losses[0])) for _, losses in front]
    texts = [f"{rival.name}, trial {row.number}: {setting(row)}" for row, _ in front]
    return [
        # From the largest ratio on: what reaches it reaches all below, up to the next point.
        Series(rival.name, Mark.STEP, x[::-1], y[::-1], colour=rival.name),
        Series(rival.name, Mark.POINTS, x, y, texts=texts, colour=rival.name),
    ]


def _repeats(field: Field) -> list[Panel]:
    """Attainment over studies that repeat each other."""
    return [
        attainment_panel(
            [_sizes(rival) for rival in group],
            AXES["ratio"],
            field.y,
            _y(field),
            "repeats",
            f"{group[0].name} and its repeats, {len(group)} studies",
        )
        for group in field.repeats
        if all(rival.front for rival in group)
    ]


def _sizes(rival: Rival) -> Losses:
    """The front as losses (ratio, metric)."""
    return np.array([(-(2.0 ** float(-losses[1])), losses[0]) for _, losses in rival.front])
