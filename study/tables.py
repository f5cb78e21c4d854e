"""Parquet views of the study log: one row a record, flat columns and the whole of it as JSON.

The columns are those below, for every study, with the study's primary metric as ``val_METRIC`` and
``test_METRIC``. All other metrics are in the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.columns import TIMED
from study.state import StudyState, TrialState
from study.store.storage import Storage
from trainables.record import Record, Trial, Verification, canonical

RECORDS = "records/records.parquet"
VERIFICATIONS = "records/verifications.parquet"

METRIC = "METRIC"  # stands for the primary one
RECORD_COLUMNS: Mapping[str, pa.DataType] = {
    "number": pa.int64(),
    "role": pa.string(),
    "trial_id": pa.string(),
    "config_id": pa.string(),
    "status": pa.string(),
    "task": pa.string(),
    "method": pa.string(),
    "init": pa.string(),
    "adapter": pa.string(),
    "rank": pa.int64(),
    "alpha": pa.float64(),
    "rest": pa.string(),
    "recipe": pa.string(),
    "losses": pa.string(),
    "hooks": pa.string(),
    "optimizer": pa.string(),
    "lr": pa.float64(),
    "batch_size": pa.int64(),
    "epochs": pa.int64(),
    "seed": pa.int64(),
    "epochs_done": pa.int64(),
    "best_epoch": pa.int64(),
    f"val_{METRIC}": pa.float64(),
    "ratio": pa.float64(),
    "log2_ratio": pa.float64(),
    "layer_ratio": pa.float64(),
    "nominal_ratio": pa.float64(),
    "stored_bytes": pa.int64(),
    "file_bytes": pa.int64(),
    "macs": pa.int64(),
    "latency_ms": pa.float64(),
    "seconds": pa.float64(),
    "peak_memory": pa.int64(),
    "sha256": pa.string(),
    "error": pa.string(),
    "record_json": pa.string(),
}

VERIFICATION_COLUMNS: Mapping[str, pa.DataType] = {
    "trial_id": pa.string(),
    "verified": pa.bool_(),
    "problems": pa.string(),
    "sha256": pa.string(),
    "file_bytes": pa.int64(),
    f"test_{METRIC}": pa.float64(),
    TIMED: pa.float64(),
    "resident_bytes": pa.int64(),
    "at": pa.string(),
    "verification_json": pa.string(),
}


def write_parquet(storage: Storage, state: StudyState, metric: str) -> None:
    """Write both tables anew, each so that readers see the old one or the new one.

    ``metric`` is the task's primary one.
    """
    baselines = [t for t in state.ended if t.number < 0]
    rows = [record_row(t) for t in (*baselines, *state.searched, *state.confirmed)]
    storage.write_bytes(RECORDS, _parquet(rows, RECORD_COLUMNS, metric))
    checks = [verification_row(v) for v in state.verifications.values()]
    storage.write_bytes(VERIFICATIONS, _parquet(checks, VERIFICATION_COLUMNS, metric))


def record_row(trial: TrialState) -> dict[str, Any]:
    """The columns of an ended trial; None where there is nothing to say."""
    if trial.record is None:
        raise ValueError(f"trial {trial.number} has no record")
    return {
        "number": trial.number,
        "role": trial.role,
        "trial_id": trial.trial_id,
        "config_id": trial.record.config_id,
        **asked(trial.trial),
        **measured(trial.record),
        "record_json": canonical(trial.record),
    }


def asked(trial: Trial) -> dict[str, Any]:
    """What was asked, flat. Of several layer rules, each value that occurs, joined by ``;``."""
    rules = trial.layers
    one = rules[0] if len(rules) == 1 else None
    return {
        "task": str(trial.task),
        "method": _joined("+".join(m.name for m in rule.methods) for rule in rules),
        "init": _joined(rule.init.name for rule in rules),
        "adapter": _joined(rule.adapter.name for rule in rules),
        "rank": max(rule.rank for rule in rules),
        "alpha": one.alpha if one else None,
        "rest": str(trial.rest),
        "recipe": str(trial.recipe),
        "losses": _joined(map(str, trial.losses)),
        "hooks": _joined(map(str, trial.hooks)),
        "optimizer": trial.optimizer.name,
        "lr": trial.lr or None,
        "batch_size": trial.batch_size or None,
        "epochs": trial.epochs,
        "seed": trial.seed,
    }


def measured(record: Record) -> dict[str, Any]:
    """What was measured, flat, with every metric of validation; a failed trial has none."""
    outcome, size = record.outcome, record.outcome.size
    columns: dict[str, Any] = {
        "status": outcome.status.value,
        "epochs_done": outcome.epochs_done,
        "best_epoch": outcome.best_epoch,
        **{f"val_{name}": value for name, value in outcome.metrics.get("val", {}).items()},
    }
    for name in ("ratio", "log2_ratio", "layer_ratio", "nominal_ratio"):
        columns[name] = getattr(size, name) if size else None
    for name in ("stored_bytes", "file_bytes"):
        columns[name] = getattr(size, name) if size else None
    for name in ("macs", "latency_ms", "seconds", "peak_memory", "sha256", "error"):
        columns[name] = getattr(outcome, name)
    return columns


def verification_row(verification: Verification) -> dict[str, Any]:
    """The columns of a verification."""
    names = ("trial_id", "sha256", "file_bytes", "resident_bytes", "at", "verified")
    return {name: getattr(verification, name) for name in names} | {
        TIMED: verification.latency_ms,
        "problems": "; ".join(verification.problems),
        **{f"test_{name}": value for name, value in verification.metrics.items()},
        "verification_json": canonical(verification),
    }


def _joined(values: Iterable[str]) -> str:
    return ";".join(dict.fromkeys(values))


def _parquet(
    rows: list[dict[str, Any]], columns: Mapping[str, pa.DataType], metric: str
) -> pa.Buffer:
    named = [(name.replace(METRIC, metric), kind) for name, kind in columns.items()]
    table = pa.Table.from_pylist(rows, schema=pa.schema(named))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()
