"""The metric against the adapters' rank, as published figures draw it: by method and init."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import units
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.charts.common import in_common
from analysis.charts.tried import Tried, grouped, metric_scale, tried
from analysis.columns import setting
from analysis.findings import Findings
from analysis.stats import Interval, mean_interval
from trainables.record import Objective

__all__ = ["metric_by_rank"]

MOST_PANELS = 12


def metric_by_rank(found: Findings) -> Chart | None:
    """The best setting of each method, init and rank; None where no adapter was tried."""
    trials = tried(found)
    methods = grouped((one.method, one) for one in trials if one.rank)
    if not methods:
        return None
    shown = sorted(methods, key=lambda name: (-len(methods[name]), name))[:MOST_PANELS]
    bare = grouped((one.method, one) for one in trials if not one.init)
    ranks = sorted({one.rank for name in shown for one in methods[name]})
    panels = [_panel(found, m, methods[m], bare.get(m, ()), ranks) for m in sorted(shown)]
    left = len(methods) - len(shown)
    chart = Chart(
        f"{units.name(found.y).capitalize()} against rank, by init",
        "Each point is the best setting on validation that was tried with this method, init and "
        "rank; the more were tried, the luckier the best of them. "
        + _of_seeds(panels)
        + "Horizontal lines: the dense model, and the best setting without an adapter."
        + (f" Left out: {units.counted(left, 'method')} with fewer trials." if left else ""),
        panels,
        columns=min(3, len(panels)),
    )
    return in_common(chart)


def _of_seeds(panels: Sequence[Panel]) -> str:
    if any(end is not None for panel in panels for one in panel.series for end in one.low):
        return "Whiskers: 95% t-interval of the mean, where a setting ran with several seeds. "
    return "One seed each, so without intervals. "


def _panel(
    found: Findings,
    method: str,
    trials: Sequence[Tried],
    bare: Sequence[Tried],
    ranks: Sequence[int],
) -> Panel:
    """One method over the ranks of all of them, so that panels compare."""
    inits = grouped((one.init, one) for one in trials)
    dense = found.baselines.get("dense")
    levels = [
        *_level("dense", ranks, dense.number(found.y.name) if dense else None, muted=True),
        *_level("without adapter", ranks, _best(bare, found.y).value if bare else None),
    ]
    lines = [_line(init, of_init, found.y) for init, of_init in inits.items()]
    rank = Scale("rank", log=len(ranks) > 1)
    return Panel(method, rank, metric_scale(found.y), [*levels, *lines])


def _level(
    name: str, ranks: Sequence[int], value: float | None, muted: bool = False
) -> list[Series]:
    if value is None:
        return []
    ends = (float(ranks[0]), float(ranks[-1]))
    # Of a single rank no line would be seen.
    mark = Mark.LINE if ends[0] < ends[1] else Mark.POINTS
    return [Series(name, mark, ends, (value, value), muted=muted, texts=(name, name))]


@dataclass(frozen=True)
class _Best:
    """The best setting of some: the mean over its seeds, its interval, how many were tried.

    ``trial_id`` is its first run's.
    """

    value: float
    interval: Interval | None
    text: str
    trial_id: str


def _best(trials: Sequence[Tried], y: Objective) -> _Best:
    seeds: dict[Hashable, list[Tried]] = {}
    for one in trials:
        seeds.setdefault(one.config, []).append(one)
    runs = min(seeds.values(), key=lambda group: y.loss(_mean(group)))
    text = f"{setting(runs[0].row)}, best of {units.counted(len(seeds), 'setting')}"
    several = f", mean of {len(runs)} seeds" if len(runs) > 1 else ""
    interval = mean_interval([run.value for run in runs])
    return _Best(_mean(runs), interval, text + several, runs[0].trial_id)


def _mean(runs: Sequence[Tried]) -> float:
    # The mean of one value is that value, to the last digit.
    return runs[0].value if len(runs) == 1 else float(np.mean([run.value for run in runs]))


def _line(init: str, trials: Sequence[Tried], y: Objective) -> Series:
    by_rank: dict[int, list[Tried]] = {}
    for one in trials:
        by_rank.setdefault(one.rank, []).append(one)
    best: Mapping[int, _Best] = {rank: _best(by_rank[rank], y) for rank in sorted(by_rank)}
    ends = [one.interval for one in best.values()]
    # The mean of fractions is one, which a t-interval does not know.
    bottom, top = (0.0, 1.0) if y.is_fraction else (-math.inf, math.inf)
    return Series(
        init,
        Mark.LINE,
        [float(rank) for rank in best],
        [one.value for one in best.values()],
        low=[None if end is None else max(end.lower, bottom) for end in ends],
        high=[None if end is None else min(end.upper, top) for end in ends],
        texts=[one.text for one in best.values()],
        trials=[one.trial_id for one in best.values()],
    )
