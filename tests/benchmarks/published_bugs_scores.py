"""What ``published_bugs.py`` makes of its scores: choices on validation, bounds, two tables.

Scores are of one task and seed: ``points`` by arm, ``right`` (a text of 0s and 1s over the test
examples) by trial, ``groups`` of alike test examples or None, ``ended`` (trials, failed) by arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.stats import mean_interval

MARGIN = 0.005
RESAMPLES = 2000
Cell = tuple[str, int, str]
Scores = dict[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A completed trial: its cell, its metric on validation, the bytes of its file."""

    method: str
    rank: int
    init: str
    trial_id: str
    validation: float
    bytes: int

    @property
    def cell(self) -> Cell:
        """Method, rank and init."""
        return self.method, self.rank, self.init


def _best(points: Iterable[Point]) -> Point | None:
    return max(points, key=lambda p: (p.validation, -p.bytes, p.trial_id), default=None)


def best_of_cells(points: Sequence[Point]) -> dict[Cell, Point]:
    """Of each cell the best on validation; the smaller one among equals."""
    cells = sorted({point.cell for point in points})
    found = {cell: _best(point for point in points if point.cell == cell) for cell in cells}
    return {cell: point for cell, point in found.items() if point}


def counterpart(published: Point, corrected: Sequence[Point]) -> Point | None:
    """The best corrected point on validation that has no more bytes; test has no say."""
    return _best(point for point in corrected if point.bytes <= published.bytes)


def points_of(scores: Scores, arm: str) -> list[Point]:
    """As they were found."""
    return [Point(**point) for point in scores["points"][arm]]


def right(scores: Scores, point: Point) -> Floats:
    """1 for each test example that it has right, else 0."""
    return np.array(list(scores["right"][point.trial_id]), dtype=np.float64)


@dataclass(frozen=True)
class Pair:
    """A published point and its counterpart at one seed."""

    published: Point
    corrected: Point
    accuracies: tuple[float, float]
    difference: Floats
    groups: NDArray[np.int64]


def pairs(seeds: Sequence[Scores]) -> dict[Cell, list[Pair | None]]:
    """By published cell, a pair a seed that has the cell; None where nothing is as small."""
    found: dict[Cell, list[Pair | None]] = {}
    for scores in seeds:
        corrected = points_of(scores, "corrected")
        for cell, point in best_of_cells(points_of(scores, "as published")).items():
            other = counterpart(point, corrected)
            found.setdefault(cell, []).append(other and _pair(scores, point, other))
    return found


def _pair(scores: Scores, published: Point, corrected: Point) -> Pair:
    theirs, ours = right(scores, published), right(scores, corrected)
    groups = scores["groups"]
    own = np.arange(len(ours)) if groups is None else np.unique(groups, return_inverse=True)[1]
    return Pair(published, corrected, (theirs.mean(), ours.mean()), ours - theirs, own)


def t_bound(values: Sequence[float]) -> float | None:
    """One-sided lower 95% bound of a mean over seeds: the end of a 90% interval."""
    interval = mean_interval(values, confidence=0.9)
    return interval and interval.lower


def bootstrap_bound(found: Sequence[Pair]) -> float:
    """The same by resampling: seeds, and within each the examples, whole groups of alike ones."""
    rng, count = np.random.default_rng(0), len(found)
    means = np.empty((RESAMPLES, count))
    for slot in range(count):
        drawn = rng.integers(count, size=RESAMPLES)
        for seed, pair in enumerate(found):
            rows = drawn == seed
            means[rows, slot] = _resampled(pair, int(rows.sum()), rng)
    return float(np.quantile(means.mean(1), 0.05))


def _resampled(pair: Pair, times: int, rng: np.random.Generator) -> Floats:
    sizes = np.bincount(pair.groups).astype(np.float64)
    sums = np.bincount(pair.groups, weights=pair.difference)
    weights = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=times)
    means: Floats = (weights @ sums) / (weights @ sizes)
    return means


def claim_row(task: str, cell: Cell, found: Sequence[Pair | None]) -> tuple[list[str], bool]:
    """A cell's row, and whether the claim holds there: by the lower of two bounds."""
    name = f"{cell[0]} r{cell[1]} {cell[2]}"
    both = [pair for pair in found if pair]
    if not both:
        return [task, name, "0", *["-"] * 6, "no: nothing as small"], False
    mean = float(np.mean([pair.difference.mean() for pair in both]))
    bounds = t_bound([float(p.difference.mean()) for p in both]), bootstrap_bound(both)
    lower = min(bound for bound in bounds if bound is not None)
    holds = lower >= -MARGIN and len(both) == len(found)
    sizes = (np.mean([p.published.bytes for p in both]), np.mean([p.corrected.bytes for p in both]))
    accuracies = np.mean([pair.accuracies for pair in both], axis=0)
    few = "" if len(both) == len(found) else f", nothing as small at {len(found) - len(both)}"
    row = [task, name, str(len(both)), *(f"{size:.0f}" for size in sizes)]
    row += [*(f"{100 * a:.2f}" for a in accuracies), f"{100 * mean:+.2f}", f"{100 * lower:+.2f}"]
    return [*row, ("yes" if holds else "no") + few], holds


def claim_table(tasks: dict[str, list[Scores]]) -> str:
    """A row a published cell; accuracy in percent, differences in points."""
    heading = ["task", "cell", "seeds", "published bytes", "corrected bytes", "published acc"]
    heading += ["corrected acc", "difference", "lower 95%", f"at least -{100 * MARGIN:g}?"]
    rows = [
        claim_row(task, cell, found)
        for task, seeds in tasks.items()
        for cell, found in sorted(pairs(seeds).items())
    ]
    held = sum(holds for _, holds in rows)
    return f"{markdown(heading, [row for row, _ in rows])}\n\nholds for {held} of {len(rows)} cells"


def errors_table(tasks: dict[str, list[Scores]]) -> str:
    """What each error alone does to the best of a cell on test, and to the share that fails."""
    heading = ["task", "error", "difference", "95% over seeds", "failed", "failed corrected"]
    rows = []
    for task, seeds in tasks.items():
        for arm in ("sign", "1x16", "signed", "alpha"):
            means = [mean for scores in seeds if (mean := _effect(scores, arm)) is not None]
            interval = mean_interval(means) if means else None
            ends = f"{100 * interval.lower:+.2f} to {100 * interval.upper:+.2f}" if interval else ""
            mean = f"{100 * float(np.mean(means)):+.2f}" if means else "-"
            failed = (_failed(seeds, name) for name in (arm, "corrected"))
            rows.append([task, arm, mean, ends or "-", *failed])
        published = ["-", "-", _failed(seeds, "as published"), _failed(seeds, "corrected")]
        rows.append([task, "all four", *published])
    return markdown(heading, rows)


def _effect(scores: Scores, arm: str) -> float | None:
    """Mean over the cells that both have: the test accuracy of the best with the error, less."""
    wrong, good = (best_of_cells(points_of(scores, name)) for name in (arm, "corrected"))
    shared = [cell for cell in wrong if cell in good]
    gaps = [right(scores, wrong[c]).mean() - right(scores, good[c]).mean() for c in shared]
    return float(np.mean(gaps)) if gaps else None


def _failed(seeds: Sequence[Scores], arm: str) -> str:
    trials, failed = np.sum([scores["ended"][arm] for scores in seeds], axis=0)
    return f"{failed / trials:.0%} of {trials}"


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    marks = ["---"] * len(heading)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, marks, *rows))
