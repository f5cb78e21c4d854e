"""The front's section as data: all trials by column, every axis, and the front over each pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis import units
from analysis.columns import SIZES, TIMED, Axis, Value, y_objective
from analysis.findings import Findings
from analysis.fronts import non_dominated
from analysis.notes import certified_note
from analysis.published import SYSTEMS
from analysis.settings import told
from analysis.summary_ground import BASELINES
from analysis.trials import placed, trials
from trainables.record import Direction, Objective

__all__ = ["front"]

# Of the verified files, which are few; rows have it from their verification.
VERIFIED = Axis(
    Objective(TIMED, Direction.MINIMIZE, "ms"),
    "latency of one example, timed alone when verified (ms)",
    lambda outcome: None,
)
DRAWN = (*SIZES.values(), VERIFIED)
FACETS = ("method", "init", "adapter", "rank")
# What a hover tells of a trial beside its sizes and metrics.
TOLD = ("number", "place", "role", "status", "epochs_done", "seeds", "verified")
ENDS = ("val_mean", "val_low", "val_high", "test_worst", "test_best")

Rows = Sequence[dict[str, Value]]


def front(found: Findings) -> dict[str, Any]:
    """All that the front's section draws; a column of text is names and their codes."""
    rows = list(trials(found))
    metrics = [y_objective(found.study, name) for name in _metrics(rows, found.y.name)]
    axes = [axis for axis in DRAWN if any(_number(row, axis.name) is not None for row in rows)]
    tests = ["test_" + y.name.removeprefix("val_") for y in metrics]
    names = [*TOLD, "trial_id", *FACETS, *(a.name for a in axes), *(y.name for y in metrics)]
    return {
        "x": [_axis(axis) for axis in axes],
        "y": [_metric(y, test, rows) for y, test in zip(metrics, tests, strict=True)],
        "start": {"x": found.axis.name, "y": found.y.name},
        "facets": FACETS,
        "count": len(rows),
        "columns": {name: _column(rows, name) for name in dict.fromkeys([*names, *tests, *ENDS])},
        "settings": _settings(found),
        "fronts": {x.name: {y.name: _members(rows, x, y, found) for y in metrics} for x in axes},
        "band": _band(found),
        "certified": _certified(found, rows),
        "margin": units.margin_of(found.y, found.margin, short=True),
        "published": _published(found),
        "missing": [name for name in BASELINES if name not in found.baselines],
    }


def _metrics(rows: Rows, first: str) -> list[str]:
    """The study's metric, then all others of validation that were recorded."""
    known = (name for row in rows for name in row if name.startswith("val_"))
    return [name for name in dict.fromkeys([first, *known]) if name not in ENDS]


def _number(row: dict[str, Value], name: str) -> float | None:
    value = row.get(name)
    return None if value is None or isinstance(value, str) else float(value)


def _axis(axis: Axis) -> dict[str, Any]:
    rising = axis.objective.direction is Direction.MAXIMIZE
    unit = "×" if rising else axis.objective.unit
    return {"name": axis.name, "label": axis.label, "unit": unit, "rising": rising}


def _metric(y: Objective, test: str, rows: Rows) -> dict[str, Any]:
    values = [v for row in rows if (v := _number(row, y.name)) is not None]
    return {
        "name": y.name,
        "label": units.label(y),
        "test": test,
        "percent": y.is_fraction,
        "unit": "" if y.is_fraction else y.unit,
        "rising": y.direction is Direction.MAXIMIZE,
        "log": bool(values) and min(values) > 0,
    }


def _column(rows: Sequence[Mapping[str, Value]], name: str) -> dict[str, Any]:
    values = [row.get(name) for row in rows]
    if not any(isinstance(value, str) for value in values):
        return {"values": values}
    texts = ["" if value is None else str(value) for value in values]
    names = list(dict.fromkeys(texts))
    codes = {name: i for i, name in enumerate(names)}
    return {"names": names, "codes": [codes[text] for text in texts]}


def _settings(found: Findings) -> dict[str, Any]:
    """The whole setting of each trial by its words, a column a word, for the page to put together.

    As columns of codes they take a tenth of what they take as texts.
    """
    known = found.study.defaults
    rows = [dict(told(point.row.record.trial, known)) for _, point in placed(found)]
    return {name: _column(rows, name) for name in dict.fromkeys(key for row in rows for key in row)}


def _members(rows: Rows, x: Axis, y: Objective, found: Findings) -> dict[str, Any]:
    """Who no other trial beats on this pair of axes, by row, smallest compression first.

    Over the axes of the report these are its own front's, of which the line joins those that are
    best on the two axes alone; over others they are by validation only.
    """
    own = (x.name, y.name) == (found.axis.name, found.y.name)
    at = [i for i, row in enumerate(rows) if row["place"] == "front" or _is_candidate(row, own)]
    pairs = [(i, _number(rows[i], x.name), _score(rows[i], y.name, own)) for i in at]
    known = [(i, a, b) for i, a, b in pairs if a is not None and b is not None]
    losses = np.array([(x.objective.loss(a), y.loss(b)) for _, a, b in known]).reshape(-1, 2)
    best = [one for one, keep in zip(known, non_dominated(losses), strict=True) if keep]
    best.sort(key=lambda one: (-x.objective.loss(one[1]), y.loss(one[2]), one[0]))
    return {"line": [i for i, _, _ in best], "own": own}


def _is_candidate(row: dict[str, Value], own: bool) -> bool:
    return not own and row["place"] == "dominated" and bool(row["artifact"])


def _score(row: dict[str, Value], y: str, own: bool) -> float | None:
    """As the report counts it: on its own axes a mean over seeds where there are several."""
    mean = _number(row, "val_mean") if own else None
    return _number(row, y) if mean is None else mean


def _band(found: Findings) -> list[float] | None:
    """Test scores within the margin of dense, from worst to dense's own."""
    dense = found.baselines.get("dense")
    score = dense.number("test_" + found.y.name.removeprefix("val_")) if dense else None
    if score is None or not any(point.dense for point in found.front):
        return None
    worst = found.y.value(found.y.loss(score) + found.y.allowance(found.margin, score))
    return [worst, score]


def _certified(found: Findings, rows: Rows) -> dict[str, Any] | None:
    """The row of the smallest model that is certified, and what the picture says of it."""
    if found.certified is None:
        return None
    told = certified_note(found.certified, found)
    at = [row["trial_id"] for row in rows].index(found.certified.values["trial_id"])
    return {"row": at, "text": told}


def _published(found: Findings) -> list[dict[str, Any]]:
    """Points that may stand on the report's own axes, by system and series."""
    series: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for one in found.published:
        point = one.point
        if not one.why_not and point.value is not None:
            title = SYSTEMS[point.system].title.split(" ", 1)[1]
            key = (title, point.series)
            series.setdefault(key, []).append((point.ratio, point.value, point.point))
    return [
        {
            "name": f"published: {system}, {label}",
            "x": [x for x, _, _ in sorted(points)],
            "y": [y for _, y, _ in sorted(points)],
            "texts": [text for _, _, text in sorted(points)],
        }
        for (system, label), points in series.items()
    ]
