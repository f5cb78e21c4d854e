"""What MLflow shows of a trial, in its own types."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow.entities import Metric, Param, RunTag

from study.state import TrialState
from study.tables import asked, measured

_MEASURED = tuple(
    "epochs_done best_epoch ratio log2_ratio layer_ratio nominal_ratio "
    "stored_bytes file_bytes macs seconds peak_memory".split()
)


def curve(trial: TrialState, done: int, last_step: int) -> Iterator[Metric]:
    """Reports after the first ``done``, of epochs after ``last_step``."""
    for report in trial.reports[done:]:
        if report.epochs_done <= last_step:
            continue
        at = milliseconds((trial.started_at or 0) + report.seconds)
        for name, value in report.metrics.items():
            yield Metric(f"val/{name}", value, at, report.epochs_done)
        if report.train_loss is not None:
            yield Metric("train/loss", report.train_loss, at, report.epochs_done)
        if report.file_bytes is not None:
            yield Metric("file_bytes_by_epoch", report.file_bytes, at, report.epochs_done)


def final_metrics(trial: TrialState) -> list[Metric]:
    """What the trial came to."""
    if trial.record is None:
        return []
    at, values = milliseconds(trial.ended_at), measured(trial.record)
    names = [*_MEASURED, *(name for name in values if name.startswith("val_"))]
    found = {name: values[name] for name in names if values[name] is not None}
    return [Metric(name, float(value), at, 0) for name, value in found.items()]


def cause(trial: TrialState) -> list[RunTag]:
    """Why it failed."""
    error = trial.record.outcome.error if trial.record else None
    return [RunTag("error", error[:5000])] if error else []


def params_of(trial: TrialState) -> list[Param]:
    """What was asked and what was suggested."""
    values = {k: v for k, v in asked(trial.trial).items() if v is not None} | dict(trial.params)
    return [Param(k, str(v)[:6000]) for k, v in values.items()]


def milliseconds(at: float | None) -> int:
    """MLflow's unit of time."""
    return int((at or 0) * 1000)


def word(value: bool) -> str:
    """A tag's value."""
    return "true" if value else "false"
