"""What MLflow shows of a trial, in its own types."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import islice

from mlflow.entities import Metric, Param

from analysis.columns import TIMED
from study.events import CONFIRM, SEARCH
from study.finished import Finished
from study.growth import Growth
from study.state import Phase, TrialState
from study.tables import asked, measured
from trainables.record import NONE, Report, Verification

# Few: each is a column of the table of runs. What follows from these is in record.json.
_MEASURED = tuple(
    "ratio file_bytes layer_ratio macs epochs_done best_epoch seconds peak_memory".split()
)
TABLE_LATENCY = "table_latency_ms"
"""By the study's table. ``latency_ms`` is taken: earlier versions gave it to the verified time."""


def curve(
    trial: TrialState, latest: Mapping[str, tuple[int, float]], start: int
) -> Iterator[Metric]:
    """Of each metric the points after the last one that the run has: ``latest``, by name.

    Their times count from the run's ``start``, not from when the trial was begun again: a point
    that is sent twice is the same point.
    """
    last = {name: step for name, (step, _) in latest.items() if _is_curve(name)}
    first = bisect_left(
        trial.reports, min(last.values(), default=-1), key=lambda report: report.epochs_done
    )
    for report in islice(trial.reports, first, None):
        at = start + milliseconds(report.seconds)
        for name, value in _points(report).items():
            if report.epochs_done > last.get(name, -1):
                yield Metric(name, value, at, report.epochs_done)


def _points(report: Report) -> dict[str, float]:
    """What a report says, by the names of MLflow's metrics."""
    found = {f"val/{name}": value for name, value in report.metrics.items()}
    if report.train_loss is not None:
        found["train/loss"] = report.train_loss
    if report.file_bytes is not None:
        found["file_bytes_by_epoch"] = report.file_bytes
    return found


def _is_curve(name: str) -> bool:
    return name.startswith("val/") or name in ("train/loss", "file_bytes_by_epoch")


def final_metrics(trial: TrialState) -> list[Metric]:
    """What the trial came to."""
    if trial.record is None:
        return []
    at, values = milliseconds(trial.ended_at), measured(trial.record)
    names = [*_MEASURED, *(name for name in values if name.startswith("val_"))]
    found = {name: values[name] for name in names} | {TABLE_LATENCY: values["latency_ms"]}
    found = {name: value for name, value in found.items() if value is not None}
    return [Metric(name, float(value), at, 0) for name, value in found.items()]


def growth(study: Finished) -> Iterator[Metric]:
    """The hypervolume of the study's front by trials: the ends of each stretch without growth."""
    reference = study.info.get("reference", {}).get(study.aims[0].name)
    if reference is None:  # of a version that did not say up to where it is counted
        return
    grown = Growth(study.aims, reference, study.demands.met)
    grown.look(study.state)
    searched = (t for t in study.state.finished if t.role == SEARCH)
    trials = (t for t in searched if t.phase is not Phase.INHERITED)
    volumes = [None, *grown.volumes, None]
    for count, trial in enumerate(trials, 1):
        before, volume, after = volumes[count - 1 : count + 2]
        if volume is not None and not before == volume == after:
            yield Metric("hypervolume", volume, milliseconds(trial.ended_at), count)


def tested(trial: TrialState, found: Verification) -> list[Metric]:
    """What its verification measured."""
    values: dict[str, float | None] = {f"test/{k}": v for k, v in found.metrics.items()}
    values |= {TIMED: found.latency_ms, "resident_bytes": found.resident_bytes}
    at = milliseconds(trial.ended_at)
    return [Metric(k, float(v), at, 0) for k, v in values.items() if v is not None]


def name_of(trial: TrialState) -> str:
    """A run's name: the trial's number and what it tries, in few words."""
    if trial.number < 0:
        return trial.role
    if trial.role == CONFIRM:
        return f"{trial.number:03d} seed {trial.trial.seed}"
    values = asked(trial.trial)
    words = [str(values["method"]), *(w for w in (values["adapter"],) if w != NONE.name)]
    return f"{trial.number:03d} {' '.join(words)} r{values['rank']}"


def cause(trial: TrialState) -> dict[str, str]:
    """Why it failed."""
    error = trial.record.outcome.error if trial.record else None
    return {"error": error[:5000]} if error else {}


def params_of(trial: TrialState) -> list[Param]:
    """What was asked, by the same names in every run, and what else was suggested."""
    values = {k: v for k, v in asked(trial.trial).items() if v is not None and v != ""}
    said_already = f"{trial.trial.optimizer.name}.lr"
    values |= {k: v for k, v in trial.params.items() if k != said_already}
    return [Param(k, str(v)[:6000]) for k, v in values.items()]


def milliseconds(at: float | None) -> int:
    """MLflow's unit of time."""
    return int((at or 0) * 1000)


def word(value: bool) -> str:
    """A tag's value."""
    return "true" if value else "false"
