"""Constraints: what a model must meet to be of use, such as ``drop <= 1pp`` or ``ratio >= 4``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from analysis.columns import AXES
from compression.registry import InvalidSetting, UnknownName
from study.fields.amounts import parse_bytes
from study.objectives import LATENCY, Judged
from study.state import StudyState, TrialState
from trainables.record import Objective, Outcome, Record, Report

DROP = "drop"
EXPECTED = "expected NAME <= AMOUNT or NAME >= AMOUNT, such as drop <= 1pp or file_bytes <= 5 MB"
_FORM = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=)\s*(\S.*?)\s*")
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(\S*)")


@dataclass(frozen=True)
class Constraint:
    """A bound on what is measured of a trial.

    ``name`` is ``drop``, ``latency_ms``, ``val_METRIC`` of the task's ``objective``, or a column of
    sizes and work; ``upper`` tells ``<=`` from ``>=``; ``bound`` is in the column's own units.
    """

    text: str
    name: str
    upper: bool
    bound: float
    objective: Objective = field(default_factory=lambda: Objective("accuracy", unit="fraction"))

    @property
    def of_form(self) -> bool:
        """Whether it is of bytes, work or time, which training does not change."""
        return self.name in AXES or self.name == LATENCY

    def value(self, outcome: Outcome, dense: Outcome | None = None) -> float | None:
        """What is bounded; None where it was not measured.

        Args:
            outcome: of the trial.
            dense: of the baseline as it came, untrained: what a drop is held against.
        """
        if self.name == LATENCY:
            return outcome.latency_ms
        if self.name in AXES:
            return AXES[self.name].of(outcome)
        value = self._metric(outcome)
        if self.name != DROP or value is None:
            return value
        reference = None if dense is None else self._metric(dense)
        if reference is None:
            return None
        drop = self.objective.loss(value) - self.objective.loss(reference)
        if self.objective.is_fraction:
            return drop
        return drop / abs(reference) if reference else None

    def _metric(self, outcome: Outcome) -> float | None:
        return outcome.metrics.get("val", {}).get(self.objective.name)

    def violation(self, outcome: Outcome, dense: Outcome | None = None) -> float | None:
        """How far the bound is exceeded: 0 or less is met; None where nothing was measured.

        Sizes, work and time count by the logarithm of how many times they are over, so that
        ``ratio >= 4`` and a quarter of the bytes are the same; drops and fractions by the
        difference, other metrics by its share of the bound.
        """
        value = self.value(outcome, dense)
        if value is None:
            return None
        if self.of_form:
            excess = math.log(value / self.bound) if value > 0 else -math.inf
            return excess if self.upper else -excess
        excess = value - self.bound if self.upper else self.bound - value
        relative = self.name != DROP and not self.objective.is_fraction and self.bound
        return excess / abs(self.bound) if relative else excess

    def shown(self, value: float) -> str:
        """A value of what is bounded, as a person reads it."""
        if self.name == DROP and self.objective.is_fraction:
            return f"{100 * value:.3g}pp"
        if self.name in AXES and AXES[self.name].objective.unit == "B":
            return f"{value:,.0f} bytes"
        return f"{value:.4g}"


def parse_constraint(text: str, task: Judged) -> Constraint:
    """A constraint from text.

    Raises:
        InvalidSetting: malformed text, an unknown name, an amount that does not go with it.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidSetting([f"{EXPECTED}, got '{text}'"])
    name, sign, amount = found.groups()
    name = f"val_{name}" if name == task.metric else name
    known = [DROP, f"val_{task.metric}", *AXES, LATENCY]
    if name not in known:
        raise UnknownName("column", name, known)
    try:
        bound = _bound(name, amount, task.objective)
    except ValueError as error:
        raise InvalidSetting([f"{name}: {error}"]) from None
    return Constraint(text.strip(), name, sign == "<=", bound, task.objective)


def _bound(name: str, amount: str, metric: Objective) -> float:
    if name in AXES and AXES[name].objective.unit == "B":
        return _above_zero(parse_bytes(amount), amount)
    units, example = _units(name, metric)
    found = _NUMBER.fullmatch(amount)
    if found is None or found[2] not in units:
        raise ValueError(f"expected {example}, got '{amount}'")
    bound = float(found[1]) * units[found[2]]
    return _above_zero(bound, amount) if name in AXES or name == LATENCY else bound


def _units(name: str, metric: Objective) -> tuple[Mapping[str, float], str]:
    """What may stand behind a number, as factors, and how it is said."""
    if name == LATENCY:
        return {"": 1, "ms": 1, "s": 1000}, "milliseconds such as 3 or 3ms"
    if name in AXES:
        return ({"": 1, "x": 1}, "a number such as 4") if "ratio" in name else ({"": 1}, "a number")
    if name == DROP and metric.is_fraction:  # a percent of what would be left open
        return {"": 1, "pp": 0.01}, "points of a fraction such as 0.01 or 1pp"
    if name == DROP or metric.is_fraction:
        return {"": 1, "%": 0.01}, "a share such as 0.05 or 5%"
    return {"": 1}, "a number"


def _above_zero(value: float, amount: str) -> float:
    if value <= 0:
        raise ValueError(f"expected more than 0, got '{amount}'")
    return value


@dataclass(frozen=True)
class Demands:
    """All constraints of a study, held against its trials.

    ``dense`` gives the outcome of the dense baseline once it is there.
    """

    constraints: Sequence[Constraint] = ()
    dense: Callable[[], Outcome | None] = lambda: None

    @classmethod
    def of(cls, task: Judged, texts: Sequence[str], state: StudyState) -> Demands:
        """What a config's texts ask of the trials of a study."""

        def dense() -> Outcome | None:
            found = state.baseline("dense")
            return found.record.outcome if found and found.record else None

        return cls([parse_constraint(text, task) for text in texts], dense)

    def violations(self, record: Record) -> dict[str, float]:
        """By constraint, what is known of it; 0 or less is met."""
        return self._violations(self.constraints, record.outcome)

    def _violations(self, constraints: Iterable[Constraint], outcome: Outcome) -> dict[str, float]:
        dense = self.dense()
        found = {c.text: c.violation(outcome, dense) for c in constraints}
        return {text: value for text, value in found.items() if value is not None}

    def met(self, trial: TrialState) -> bool:
        """Whether all are known to be met."""
        found = self.violations(trial.record) if trial.record else {}
        return len(found) == len(self.constraints) and all(v <= 0 for v in found.values())

    def excess(self, record: Record) -> tuple[float, ...]:
        """What each is exceeded by, 0 where it is met, infinity where that is not known."""
        found = self.violations(record)
        return tuple(max(0.0, found.get(c.text, math.inf)) for c in self.constraints)

    @property
    def of_form(self) -> list[Constraint]:
        """Those that can be judged before any training."""
        return [c for c in self.constraints if c.of_form]

    def hopeless(self, report: Report, outcome: Outcome) -> bool:
        """Whether a trial breaks one that its training cannot mend: its form is what it will be."""
        if report.file_bytes is not None or not report.settled:  # ranks or zeros still move
            return False
        return any(v > 0 for v in self._violations(self.of_form, outcome).values())

    def shortfall(self, state: StudyState) -> str | None:
        """Where no file meets all: which model comes nearest, and what it breaks by how much."""
        nearest: tuple[float, Record] | None = None
        unfiled = 0
        for record in (trial.record for trial in state.searched):
            found = self.violations(record) if record else {}
            if record is None or len(found) < len(self.constraints):
                continue
            worst = max(found.values(), default=0.0)
            if worst <= 0:
                if record.outcome.sha256 is not None:
                    return None
                unfiled += 1
            elif nearest is None or worst < nearest[0]:
                nearest = worst, record
        if not self.constraints:
            return None
        if unfiled:
            return (
                f"{unfiled} of the models met the constraints but ended before a file of them was "
                "written: none can be on the front; run more trials, or let them train longer"
            )
        if nearest is None:
            asked = ", ".join(c.text for c in self.constraints)
            return f"no model was measured in all that is asked for: {asked}"
        return f"no model meets the constraints; the nearest has {self._broken(nearest[1])}"

    def _broken(self, record: Record) -> str:
        found, said = self.violations(record), []
        for constraint in self.constraints:
            value = constraint.value(record.outcome, self.dense())
            if value is not None and found[constraint.text] > 0:
                said.append(f"{constraint.name} {constraint.shown(value)} ({constraint.text})")
        return ", ".join(said)


NO_DEMANDS = Demands()
