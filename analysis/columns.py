"""The columns of a report: from a record and its verification to flat, named values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import fronts
from analysis.comparisons import Comparison, compare
from analysis.load import Row, StudyData, StudyDataError
from analysis.settings import Defaults, options
from trainables.record import (
    NONE,
    Choice,
    Direction,
    Objective,
    Outcome,
    Size,
    Verification,
)

__all__ = [
    "AXES",
    "LATENCY",
    "SIZES",
    "TIMED",
    "Axis",
    "Point",
    "Value",
    "front",
    "metric",
    "points",
    "setting",
    "y_objective",
]

Value = str | int | float | bool | None
# What is known of metrics by their names' last word, where a study doesn't say.
FRACTIONS = ("accuracy", "agreement", "f1", "precision", "recall")
MINIMISED = ("loss", "perplexity", "error")
RELATIVE = "drop_upper_relative"


@dataclass(frozen=True)
class Axis:
    """A cost that a report can draw against the metric."""

    objective: Objective
    label: str
    of: Callable[[Outcome], float | None]

    @property
    def name(self) -> str:
        """The column."""
        return self.objective.name


def _ratio(name: str, label: str) -> Axis:
    return Axis(Objective(name), label, lambda o: getattr(o.size, name, None))


def _bytes(name: str, label: str) -> Axis:
    objective = Objective(name, Direction.MINIMIZE, "B")
    return Axis(objective, label, lambda o: getattr(o.size, name, None))


AXES = {
    axis.name: axis
    for axis in (
        _ratio("ratio", "times smaller than the dense model (saved files)"),
        _ratio("layer_ratio", "times smaller, compressed layers only"),
        _ratio("nominal_ratio", "times smaller, nominal (weight values only)"),
        _bytes("file_bytes", "size of the saved file"),
        _bytes("stored_bytes", "size of all saved tensors"),
        Axis(
            Objective("macs", Direction.MINIMIZE),
            "multiply-adds of one example",
            lambda outcome: outcome.macs,
        ),
    )
}


LATENCY = Axis(
    Objective("latency_ms", Direction.MINIMIZE, "ms"),
    "latency of one example, by the study's table (ms)",
    lambda outcome: outcome.latency_ms,
)
SIZES = {**AXES, LATENCY.name: LATENCY}
"""All that a report can draw the metric against; latency where the study asked for it."""
TIMED = "verified_latency_ms"
"""Column of the latency that was timed alone, of the verified file; of few trials."""


@dataclass(frozen=True)
class Point:
    """A row beside its verification, with the flat values that tables and pictures show.

    ``against`` are the comparisons with baselines in the metric ``y``, by role.
    """

    row: Row
    verification: Verification | None
    values: dict[str, Value]
    against: dict[str, Comparison]

    @property
    def outcome(self) -> Outcome:
        """What was measured."""
        return self.row.record.outcome

    @property
    def dense(self) -> Comparison | None:
        """The comparison with the dense model on the test examples."""
        return self.against.get("dense")

    def number(self, column: str) -> float | None:
        """A numeric column, None where it was not measured."""
        value = self.values.get(column)
        return None if value is None or isinstance(value, str) else float(value)

    def score(self, column: str) -> float | None:
        """A column; a metric of validation is the mean over seeds where there are several."""
        mean = self.number("val_mean") if column.startswith("val_") else None
        return self.number(column) if mean is None else mean


PLAIN = Choice("recover")
"""The recipe that a setting need not name."""
UNKNOWN = Defaults()


def setting(row: Row, known: Defaults = UNKNOWN) -> str:
    """One short line that says what the trial was: ``rtn(bits=3) + residual lora r4``.

    ``known`` are defaults of its methods' options that are to be said, too. All else that
    determines its result is in :func:`analysis.settings.whole`.
    """
    parts = []
    for rule in row.record.trial.layers:
        text = " > ".join(str(known.whole("method", method)) for method in rule.methods)
        if rule.adapter != NONE:
            start = f"{rule.init} " if rule.init != Choice("zeros") or rule.rank else ""
            text += f" + {start}{rule.adapter}" + (f" r{rule.rank}" if rule.rank else "")
        parts.append(text if rule.pattern == "*" else f"{rule.pattern}: {text}")
    rest, recipe = row.record.trial.rest, row.record.trial.recipe
    if recipe != PLAIN:
        parts.append(str(recipe))
    parts += [str(choice) for choice in (*row.record.trial.losses, *row.record.trial.hooks)]
    return "; ".join(parts) + (f"; rest {rest}" if rest != NONE else "")


def metric(row: Row, name: str) -> float | None:
    """A metric by its column, ``val_accuracy`` = metrics["val"]["accuracy"]."""
    split, _, short = name.partition("_")
    return row.record.outcome.metrics.get(split, {}).get(short)


def y_objective(study: StudyData, name: str | None = None) -> Objective:
    """The metric that a report draws: as asked, else the study's first objective.

    Raises:
        StudyDataError: A metric that is not of the validation split: test is for the chosen points.
    """
    stated = {o["name"]: o for o in study.info.get("objectives", ())}
    name = name or next(iter(stated), "val_accuracy")
    if not name.startswith("val_"):
        raise StudyDataError(f"{name}: fronts are chosen on validation; expected val_METRIC")
    said, word = stated.get(name, {}), name.rsplit("_", 1)[-1]
    direction = Direction.MINIMIZE if word in MINIMISED else Direction.MAXIMIZE
    unit = "fraction" if word in FRACTIONS else ""
    return Objective(name, Direction(said.get("direction", direction)), said.get("unit", unit))


def front(
    rows: Sequence[Row], x: str = "ratio", y: Objective | None = None, also: Sequence[Axis] = ()
) -> list[Row]:
    """The search trials that no other one beats on all axes, smallest compression first.

    A member has an artifact; trials that were stopped early count as they are. Baselines don't.

    Args:
        rows: Finished trials.
        x: A name of :data:`SIZES`.
        y: A metric of the validation split; ``val_accuracy`` by default.
        also: Further axes on which a point may be the best one.
    """
    axes, y = (SIZES[x], *also), y or Objective("val_accuracy")
    found = []
    for row in rows:
        values = [axis.of(row.record.outcome) for axis in axes]
        losses = [a.objective.loss(v) for a, v in zip(axes, values, strict=True) if v is not None]
        value = metric(row, y.name)
        measured = len(losses) == len(axes) and value is not None
        if row.role == "search" and row.record.outcome.sha256 and measured:
            found.append(((losses[0], y.loss(value or 0.0), *losses[1:]), row))
    points = np.array([losses for losses, _ in found]).reshape(-1, 1 + len(axes))
    kept = [f for f, keep in zip(found, fronts.non_dominated(points), strict=True) if keep]
    kept.sort(key=lambda f: (-f[0][0], f[0][1], f[1].number))
    return [row for _, row in kept]


def points(study: StudyData, rows: Sequence[Row], y: Objective) -> list[Point]:
    """Rows with their verification and every column of the report."""
    fp16 = next((r.record.outcome.size for r in study.rows if r.role == "fp16"), None)
    found = []
    for row in rows:
        verification = study.verifications.get(row.record.trial_id)
        against = _against(verification, y)
        values = _asked(row, study) | _measured(row, y.name, fp16) | _verified(row, verification, y)
        found.append(Point(row, verification, values | _drops(against, y), against))
    return found


def _against(verification: Verification | None, y: Objective) -> dict[str, Comparison]:
    if verification is None:
        return {}
    roles = dict.fromkeys([*verification.paired, *verification.drops])
    return {role: found for role in roles if (found := compare(verification, role, y))}


def _asked(row: Row, study: StudyData) -> dict[str, Value]:
    trial = row.record.trial
    rules = trial.layers

    def each(names: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(names))

    return {
        "trial_id": row.record.trial_id,
        "method": each([" > ".join(m.name for m in rule.methods) for rule in rules]),
        "init": each([rule.init.name for rule in rules]),
        "adapter": each([rule.adapter.name for rule in rules]),
        "rank": max(rule.rank for rule in rules),
        "recipe": str(trial.recipe) if trial.epochs else "",
        "optimizer": trial.optimizer.name,
        "rest": str(trial.rest),
        "options": options(trial, study.varied),
        "setting": setting(row, study.varied),
        "lr": trial.lr or None,
        "status": row.record.outcome.status.value,
    }


def _measured(row: Row, y: str, fp16: Size | None) -> dict[str, Value]:
    outcome, size = row.record.outcome, row.record.outcome.size
    return {
        "epochs_done": outcome.epochs_done,
        y: metric(row, y),
        "ratio": getattr(size, "ratio", None),
        "layer_ratio": getattr(size, "layer_ratio", None),
        "nominal_ratio": getattr(size, "nominal_ratio", None),
        "ratio_vs_fp16": fp16.file_bytes / size.file_bytes if fp16 and size else None,
        "stored_bytes": getattr(size, "stored_bytes", None),
        "file_bytes": getattr(size, "file_bytes", None),
        "macs": outcome.macs,
        LATENCY.name: outcome.latency_ms,
        "artifact": f"artifacts/{row.record.trial_id}.safetensors" if outcome.sha256 else None,
    }


def _verified(row: Row, verification: Verification | None, y: Objective) -> dict[str, Value]:
    """Test score and whether it counts; the columns of :func:`_drops` keep their places."""
    short = y.name.removeprefix("val_")
    drops = ("drop", "drop_upper", *(() if y.is_fraction else (RELATIVE,)), "drop_vs_recovered")
    values: dict[str, Value] = dict.fromkeys((f"test_{short}", *drops, TIMED))
    values["verified"] = False
    if verification is None:
        return values
    outcome = row.record.outcome
    values[f"test_{short}"] = verification.metrics.get(short)
    values[TIMED] = verification.latency_ms
    same = verification.sha256 == outcome.sha256 and (
        outcome.size is not None and verification.file_bytes == outcome.size.file_bytes
    )
    values["verified"] = verification.verified and same
    return values


def _drops(against: dict[str, Comparison], y: Objective) -> dict[str, Value]:
    """Drops in the metric's own units; for other than fractions the bound as a share, too."""
    values: dict[str, Value] = {}
    if dense := against.get("dense"):
        values |= {"drop": dense.drop, "drop_upper": dense.upper}
        if not y.is_fraction:
            values[RELATIVE] = dense.excess
    if recovered := against.get("dense_recovered"):
        values["drop_vs_recovered"] = recovered.drop
    return values
