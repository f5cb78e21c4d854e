"""What mattered: for each objective, and for reaching the front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis import fronts, units
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.charts.tried import SEARCH, Tried, tried
from analysis.design import descriptive
from analysis.findings import Findings
from analysis.importance import Weight, best_of, weights
from analysis.knobs import knobs

__all__ = ["what_mattered"]

MOST_BARS, LEAST = 8, 0.01
"""A bar of less than a hundredth would not be seen."""
SURE, UNSURE = "above chance", "not told from chance"
NOBODY = "no knob is told from chance"


def what_mattered(found: Findings) -> Chart | None:
    """Shares of importance by knob; None where trials are too few, or differ in nothing."""
    of = found.axis.of
    trials = [one for one in tried(found, SEARCH) if of(one.row.record.outcome) is not None]
    columns = knobs(found.study, [one.row.record.trial for one in trials])
    panels, silent = list[Panel](), list[str]()
    for name, losses in _aims(found, trials):
        best = best_of(losses)
        weighed = None if best is None else weights(columns, best)
        if best is None or not weighed:
            continue
        if any(weight.above_chance for weight in weighed):
            panels.append(_panel(f"{name}: {units.counted(int(best.sum()), 'trial')}", weighed))
        else:
            silent.append(name)
    if not panels and not silent:
        return None
    why = descriptive(found.study)
    return Chart(
        "What mattered",
        (f"{why} " if why else "")
        + "PED-ANOVA: how differently the best tenth of the trials is spread over a knob's values "
        "than all of them are, less what trials drawn at random would give. Shares add up to 1; "
        "the largest are drawn. Whiskers: 90% bootstrap over trials. Grey: in one random tenth in "
        "twenty some knob would show as much. A knob's name is followed by what the best have more "
        f"often. Failed trials are left out.{_of_silent(silent)}",
        panels or [_of(NOBODY, [Series(UNSURE, Mark.BARS, [0.0], ["none"], muted=True)])],
        columns=max(len(panels), 1),
        ranges={} if panels else {"x": (0.0, 1.0)},
    )


def _of_silent(names: Sequence[str]) -> str:
    """Shares of what may be noise say nothing: there is no panel."""
    return f" No knob is told from chance for: {', '.join(names)}." if names else ""


def _aims(found: Findings, trials: Sequence[Tried]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """What trials are ordered by: the metric, the size, and the layers of the front of both."""
    if not trials:
        return
    objective = found.axis.objective
    y = np.array([found.y.loss(one.value) for one in trials])
    sizes = [found.axis.of(one.row.record.outcome) for one in trials]
    x = np.array([objective.loss(size) for size in sizes if size is not None])
    yield f"best tenth by {units.name(found.y)}", y
    yield f"best tenth by {found.axis.name.replace('_', ' ')}", x
    yield "nearest to the front", fronts.ranks(np.stack([y, x], axis=1)).astype(np.float64)


def _panel(title: str, weighed: Sequence[Weight]) -> Panel:
    shown = [weight for weight in weighed[:MOST_BARS] if weight.share >= LEAST]
    groups = [(SURE, [w for w in shown if w.above_chance])]
    groups.append((UNSURE, [w for w in shown if not w.above_chance]))
    bars = [_bars(name, some, muted=name == UNSURE) for name, some in groups if some]
    return _of(title, bars)


def _of(title: str, bars: Sequence[Series]) -> Panel:
    return Panel(title, Scale("share of importance", percent=True), Scale("knob"), list(bars))


def _bars(name: str, weighed: Sequence[Weight], muted: bool) -> Series:
    return Series(
        name,
        Mark.BARS,
        [weight.share for weight in weighed],
        [f"{w.name}: {w.toward}" if w.toward else w.name for w in weighed],
        low=[weight.low for weight in weighed],
        high=[weight.high for weight in weighed],
        texts=[weight.helps for weight in weighed],
        muted=muted,
    )
