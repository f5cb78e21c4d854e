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


def _head(names: Sequence[str], y: Objective) -> list[str]:
    """With a relative margin the bound stands there a second time, as a share of dense's value."""
    more = [] if y.is_fraction else ["bound / dense"]
    at = names.index("bound") + 1
    return [*names[:at], *more, *names[at:]]


def _reading(y: Objective) -> str:
    name = units.name(y)
    if y.direction is Direction.MAXIMIZE:
        drop = f"test {name} of dense minus that of the point on the same examples"
    else:
        drop = f"test {name} of the point minus that of dense on the same examples (above 0: worse)"
    if y.is_fraction:
        drop += ", in points"
    share = "" if y.is_fraction else "; bound / dense: that as a share of dense's value"
    return (
        "val, test: on validation (on which the points were chosen, so the best is flattered) and "
        f"on test. drop: {drop}; bound: its one-sided 95% upper bound{share}; vs recovered: the "
        "drop against dense with the same recovery budget. Empty: not measured."
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
    rows = [_member(point, found) for point in found.front]
    return f"{table(_head(_FRONT_HEAD, found.y), rows)}\n\n{_reading(found.y)}"


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
