"""Fronts over three objectives: who is on them, and on which pairs' fronts beside."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analysis import fronts, units
from analysis.columns import SIZES, Axis, Value, setting, y_objective
from analysis.load import Row, StudyData, StudyDataError

__all__ = ["COUNT", "Trade", "trade", "wrong_names"]

COUNT = 3


@dataclass(frozen=True)
class Trade:
    """Trials in several objectives.

    Args:
        axes: The objectives, in the order asked for.
        rows: The search's trials that have a file and all of them.
        values: (n, m), in their own units.
    """

    axes: tuple[Axis, ...]
    rows: tuple[Row, ...]
    values: NDArray[np.float64]

    @property
    def losses(self) -> NDArray[np.float64]:
        """(n, m), smaller is better."""
        signs = [axis.objective.loss(1.0) for axis in self.axes]
        return np.asarray(self.values * np.array(signs))

    @property
    def front(self) -> NDArray[np.bool_]:
        """(n,): whom no other beats in all objectives."""
        return fronts.non_dominated(self.losses)

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """Columns of each pair of objectives."""
        return combinations(range(len(self.axes)), 2)

    def front_of(self, *columns: int) -> NDArray[np.bool_]:
        """(n,): whom no other beats in these objectives alone."""
        return fronts.non_dominated(self.losses[:, list(columns)])

    def members(self) -> Iterator[Mapping[str, Value]]:
        """The front as rows, by the first objective, best first."""
        names = [axis.name for axis in self.axes]
        pairs = {f"{names[a]}, {names[b]}": self.front_of(a, b) for a, b in self.pairs}
        at = np.flatnonzero(self.front)
        for i in at[np.argsort(self.losses[at, 0], kind="stable")]:
            row, outcome = self.rows[i], self.rows[i].record.outcome
            yield {
                "trial_id": row.record.trial_id,
                "number": row.number,
                "setting": setting(row),
                **dict(zip(names, self.values[i].tolist(), strict=True)),
                "on_fronts_of": "; ".join(name for name, on in pairs.items() if on[i]),
                "status": outcome.status.value,
                "artifact": f"artifacts/{row.record.trial_id}.safetensors",
            }


def wrong_names(names: Sequence[str]) -> list[str]:
    """What is wrong with names of objectives, whatever the study: a sentence each."""
    found = [f"{n}: named twice" for n in dict.fromkeys(names) if names.count(n) > 1]
    if len(names) != COUNT:
        found.append(f"expected {COUNT} objectives, as val_accuracy,ratio,macs; got {len(names)}")
    return found


def trade(study: StudyData, names: Sequence[str]) -> Trade:
    """A study's trials in these objectives.

    Args:
        study: Of which the search's trials are taken.
        names: Of :data:`analysis.columns.SIZES`, or metrics of the validation split:
            ``val_accuracy`` or ``accuracy``.

    Raises:
        StudyDataError: What is wrong with the names, a line each; no trial has them all.
    """
    rows = [row for row in study.rows if row.role == "search" and row.record.outcome.sha256]
    metrics = {f"val_{n}" for row in rows for n in row.record.outcome.metrics.get("val", {})}
    problems, axes = wrong_names(names), []
    for name in names:
        if name in SIZES:
            axes.append(SIZES[name])
        elif (full := f"val_{name.removeprefix('val_')}") in metrics:
            axes.append(_metric(study, full))
        else:
            problems.append(_unknown(name, [*sorted(metrics), *SIZES]))
    if not problems:
        problems = wrong_names([axis.name for axis in axes])  # accuracy and val_accuracy are one
    if problems:
        raise StudyDataError("\n".join(f"--objectives: {problem}" for problem in problems))
    values = [[axis.of(row.record.outcome) for axis in axes] for row in rows]
    known = [i for i, found in enumerate(values) if None not in found]
    if not known:
        raise StudyDataError(f"--objectives: no trial of {study.name} {_unmeasured(axes, values)}")
    array = np.array([values[i] for i in known], dtype=np.float64)
    return Trade(tuple(axes), tuple(rows[i] for i in known), array)


def _metric(study: StudyData, name: str) -> Axis:
    objective, short = y_objective(study, name), name.removeprefix("val_")
    label = units.label(objective)
    return Axis(objective, label, lambda outcome: outcome.metrics.get("val", {}).get(short))


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"{name}: no such objective{hint} Known: {', '.join(known)}"


def _unmeasured(axes: Sequence[Axis], values: Sequence[Sequence[float | None]]) -> str:
    absent = [axis.name for k, axis in enumerate(axes) if all(found[k] is None for found in values)]
    return f"has {', '.join(absent)}" if absent else "has all three"
