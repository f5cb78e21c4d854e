"""The tables of `summary.md`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis import units
from analysis.columns import RELATIVE, Point
from analysis.findings import Findings
from analysis.markup import table
from trainables.record import Direction, Objective, Status

__all__ = ["baseline_table", "front_table"]

_BASELINE_HEAD = (
    "baseline",
    "setting",
    "val",
    "test",
    "drop",
    "bound",
    "ratio",
    "file bytes",
    "verified",
)
_ASKED = ("method", "init", "adapter", "rank", "recipe", "optimizer")
_FRONT_HEAD = (
    *("ratio", "layer ratio", "vs fp16", "file bytes", *_ASKED),
    *("epochs", "val", "test", "drop", "bound", "vs recovered", "verified", "trial"),
)

_SEEDS_HEAD = ("seeds", "val mean", "over seeds", "test mean", "over seeds", "stays")


def _head(names: Sequence[str], y: Objective) -> list[str]:
    """With a relative margin the bound stands there a second time, as a share of dense's value."""
    more = [] if y.is_fraction else ["bound / dense"]
    at = names.index("bound") + 1
    return [*names[:at], *more, *names[at:]]


def _seeded(found: Findings) -> bool:
    return any("seeds" in point.values for point in found.front)


def _reading(found: Findings) -> str:
    y = found.y
    name = units.name(y)
    if y.direction is Direction.MAXIMIZE:
        drop = f"test {name} of dense minus that of the point on the same examples"
    else:
        drop = f"test {name} of the point minus that of dense on the same examples (above 0: worse)"
    if y.is_fraction:
        drop += ", in points"
    share = "" if y.is_fraction else "; bound / dense: that as a share of dense's value"
    seeds = (
        " seeds: runs of the point with different seeds; val mean, test mean: over these, with the "
        "95% interval; stays: how often the point is on the front when the seeds are drawn anew. "
        "All other columns are of the run whose file ships, the best of these on validation."
    )
    return (
        "val, test: on validation (on which the points were chosen, so the best is flattered) and "
        f"on test. drop: {drop}; bound: its one-sided 95% upper bound{share}; vs recovered: the "
        "drop against dense with the same recovery budget. Empty: not measured."
        + seeds
        * _seeded(found)
    )


def baseline_table(found: Findings) -> str:
    """A line a baseline, in Markdown."""
    rows = [
        [
            name,
            *(str(point.values["setting"]), *_scores(point, found.y)),
            *_drops(point, found.y),
            _times(point, "ratio"),
            _count(point, "file_bytes"),
            _yes(point),
        ]
        for name, point in found.baselines.items()
    ]
    return table(_head(_BASELINE_HEAD, found.y), rows)


def front_table(found: Findings) -> str:
    """A line a point, in Markdown, and how to read it."""
    head, rows = _head(_FRONT_HEAD, found.y), [_member(point, found) for point in found.front]
    if _seeded(found):
        head += _SEEDS_HEAD
        rows = [[*row, *_over_seeds(p, found.y)] for row, p in zip(rows, found.front, strict=True)]
    return f"{table(head, rows)}\n\n{_reading(found)}"


def _over_seeds(point: Point, y: Objective) -> Iterable[str]:
    yield _count(point, "seeds")
    for split in ("val", "test"):
        mean, low, high = (point.number(f"{split}_{what}") for what in ("mean", "low", "high"))
        yield "" if mean is None else units.value(y, mean)
        known = low is not None and high is not None
        yield f"{units.value(y, low or 0.0)} to {units.value(y, high or 0.0)}" if known else ""
    share = point.number("probability")
    yield "" if share is None else f"{100 * share:.0f}%"


def _scores(point: Point, y: Objective) -> Iterable[str]:
    for column in (y.name, "test_" + y.name.removeprefix("val_")):
        number = point.number(column)
        yield "" if number is None else units.value(y, number)


def _drops(point: Point, y: Objective) -> Iterable[str]:
    """The cells under drop, bound and, with a relative margin, bound / dense."""
    for column in ("drop", "drop_upper"):
        yield units.difference(y, point.number(column), unit=False)
    if not y.is_fraction:
        share = point.number(RELATIVE)
        yield "" if share is None else f"{100 * share:.2f}%"


def _member(point: Point, found: Findings) -> list[str]:
    values = point.values
    stopped = " (stopped)" if point.outcome.status is Status.STOPPED else ""
    return [
        *(_times(point, name) for name in ("ratio", "layer_ratio", "ratio_vs_fp16")),
        _count(point, "file_bytes"),
        *(str(values[name]) for name in _ASKED),
        f"{values['epochs_done']}{stopped}",
        *_scores(point, found.y),
        *_drops(point, found.y),
        units.difference(found.y, point.number("drop_vs_recovered"), unit=False),
        _yes(point),
        f"`{values['trial_id']}`",
    ]


def _times(point: Point, column: str) -> str:
    value = point.number(column)
    return "" if value is None else f"{value:.3g}×"


def _count(point: Point, column: str) -> str:
    value = point.number(column)
    return "" if value is None else f"{value:,.0f}"


def _yes(point: Point) -> str:
    return "yes" if point.values["verified"] else "no"
