"""What a study trades: the task's primary metric against size, and what else is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from analysis.columns import AXES
from compression.registry import InvalidSetting, UnknownName
from trainables.record import Direction, Objective, Outcome, Report

RATIO = "ratio"
LATENCY = "latency_ms"
MOST = 4


class Judged(Protocol):
    """What a model is judged by: all that is read of a task here."""

    @property
    def metric(self) -> str:
        """The primary metric's plain name."""

    @property
    def objective(self) -> Objective:
        """The same with its direction and unit."""


@dataclass(frozen=True)
class Aim:
    """One objective, and how it is read of a trial: while it trains, and of what it came to.

    ``objective`` has the column's name. What depends on training is read of a report.
    """

    objective: Objective
    of: Callable[[Outcome], float | None]
    at: Callable[[Report, Outcome], float | None]

    @property
    def name(self) -> str:
        """The column."""
        return self.objective.name


def aims(task: Judged, names: Sequence[str] | None = None) -> tuple[Aim, ...]:
    """The primary metric first, the ratio second, then the others as asked.

    Raises:
        InvalidSetting: as :func:`objective_problems`.
    """
    if problems := objective_problems(task, names):
        raise InvalidSetting(problems)
    rest = [name for name in names or () if name not in (task.metric, RATIO)]
    return (
        _metric(task),
        *(_LATENCY if name == LATENCY else _axis(name) for name in [RATIO, *rest]),
    )


def objective_problems(task: Judged, names: Sequence[str] | None) -> list[str]:
    """Names that no recipe reports, that are there twice, or that leave nothing to trade."""
    if names is None:
        return []
    known = [task.metric, *AXES, LATENCY]
    found = [
        f"{UnknownName('objective', name, known)}; no recipe reports it"
        for name in dict.fromkeys(names)
        if name not in known
    ]
    found += [f"{name}: named twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    missing = [name for name in (task.metric, RATIO) if name not in names]
    if missing and not found:
        found.append(f"{' and '.join(missing)}: must be among them; fronts are drawn over these")
    if len(names) > MOST:
        found.append(f"at most {MOST}, got {len(names)}: of more, nearly every trial is on a front")
    return found


def final(aims: Sequence[Aim], outcome: Outcome) -> tuple[float, ...] | None:
    """A trial's losses, smaller is better; None where one was not measured."""
    return _losses(aims, [aim.of(outcome) for aim in aims])


def standing(aims: Sequence[Aim], report: Report, outcome: Outcome) -> tuple[float, ...] | None:
    """The losses of a trial at a report, smaller is better."""
    return _losses(aims, [aim.at(report, outcome) for aim in aims])


def _losses(aims: Sequence[Aim], values: Sequence[float | None]) -> tuple[float, ...] | None:
    losses = [aim.objective.loss(v) for aim, v in zip(aims, values, strict=True) if v is not None]
    return tuple(losses) if len(losses) == len(aims) else None


def _metric(task: Judged) -> Aim:
    name = task.metric
    return Aim(
        replace(task.objective, name=f"val_{name}"),
        lambda outcome: outcome.metrics.get("val", {}).get(name),
        lambda report, outcome: report.metrics.get(name),
    )


def _axis(name: str) -> Aim:
    axis, logarithmic = AXES[name], name.endswith(RATIO)

    def of(outcome: Outcome) -> float | None:
        value = axis.of(outcome)
        return math.log2(value) if logarithmic and value else value

    def at(report: Report, outcome: Outcome) -> float | None:
        size = outcome.size
        if name != RATIO or report.file_bytes is None or size is None:
            return of(outcome)
        return math.log2(size.dense_model.total / report.file_bytes)

    objective = axis.objective
    if logarithmic:
        objective = Objective(f"log2_{name}", Direction.MAXIMIZE, "doublings")
    return Aim(objective, of, at)


# Of a trial's form, by the table that the study measures before its trials.
_LATENCY = Aim(
    Objective(LATENCY, Direction.MINIMIZE, "ms"),
    lambda outcome: outcome.latency_ms,
    lambda report, outcome: outcome.latency_ms,
)
