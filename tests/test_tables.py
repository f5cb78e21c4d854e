"""Parquet holds every record whole, beside flat columns of fixed types."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from log_helpers import begin, end, every_kind, make_record, opened, trial_id, verified

from study.events import Ended, Verified
from study.state import StudyState
from study.store.storage import Storage
from study.tables import (
    RECORD_COLUMNS,
    RECORDS,
    VERIFICATION_COLUMNS,
    VERIFICATIONS,
    record_row,
    write_parquet,
)
from study.tracking import shown
from trainables.record import Record, Status, Verification, from_json


def written(tmp_path, events, name, metric="accuracy"):
    write_parquet(Storage.open(tmp_path), StudyState(events), metric)
    return pq.read_table(tmp_path / name)


def named(columns, metric):
    """The columns of a study with this primary metric."""
    return {name.replace("METRIC", metric): kind for name, kind in columns.items()}


def test_the_primary_metric_has_its_column(tmp_path):
    record = make_record(0)
    outcome = replace(record.outcome, metrics={"val": {"perplexity": 31.5, "loss": 3.45}})
    state = StudyState(
        [opened(), *begin(), Ended(0, trial_id(0), replace(record, outcome=outcome), 1.0)]
    )
    found = replace(verified(0).verification, metrics={"perplexity": 33.0, "loss": 3.5})
    state.apply(Verified(found))
    write_parquet(Storage.open(tmp_path), state, "perplexity")
    (row,) = pq.read_table(tmp_path / RECORDS).to_pylist()
    assert list(row) == list(named(RECORD_COLUMNS, "perplexity"))
    assert row["val_perplexity"] == 31.5
    (check,) = pq.read_table(tmp_path / VERIFICATIONS).to_pylist()
    assert check["test_perplexity"] == 33.0
    assert "test_accuracy" not in check


def test_rows_are_the_ended_trials(tmp_path):
    rows = written(tmp_path, every_kind(), RECORDS).to_pylist()
    assert [(r["number"], r["trial_id"]) for r in rows] == [(0, trial_id(0))]
    record = from_json(Record, json.loads(rows[0]["record_json"]))
    assert record == make_record(0)
    assert rows[0]["ratio"] == record.outcome.size.ratio == 4.0
    assert (rows[0]["method"], rows[0]["adapter"], rows[0]["rank"]) == ("int1", "lora", 4)
    assert rows[0]["val_accuracy"] == record.outcome.metrics["val"]["accuracy"]


def test_verifications(tmp_path):
    events = [*every_kind()[:-1], verified(0, ("sha256 differs",))]
    row = written(tmp_path, events, VERIFICATIONS).to_pylist()[0]
    assert not row["verified"]
    assert row["test_accuracy"] == 0.95
    found = from_json(Verification, json.loads(row["verification_json"]))
    assert found == verified(0, ("sha256 differs",)).verification


def test_latency_by_the_table_and_of_the_verified_file_have_names_of_their_own(tmp_path):
    record = make_record(0)
    outcome = replace(record.outcome, latency_ms=3.0)
    found = replace(verified(0).verification, latency_ms=5.0)
    ended = Ended(0, trial_id(0), replace(record, outcome=outcome), 1.0)
    events = [opened(), *begin(), ended, Verified(found)]
    assert written(tmp_path, events, RECORDS)["latency_ms"].to_pylist() == [3.0]
    table = pq.read_table(tmp_path / VERIFICATIONS)
    assert table["verified_latency_ms"].to_pylist() == [5.0]
    assert "latency_ms" not in table.schema.names
    (trial,) = StudyState(events).ended
    metrics = [*shown.final_metrics(trial), *shown.tested(trial, found)]
    values = {metric.key: metric.value for metric in metrics}
    assert (values["table_latency_ms"], values["verified_latency_ms"]) == (3.0, 5.0)
    # By that name MLflow has the verified time of studies from before: it takes no other value.
    assert "latency_ms" not in values


@pytest.mark.parametrize("events", [[], [opened(), *begin(), *end(status=Status.FAILED)]])
def test_columns_have_their_types_whatever_is_in_them(tmp_path, events):
    table = written(tmp_path, events, RECORDS)
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    assert types == named(RECORD_COLUMNS, "accuracy")
    schema = pq.read_table(tmp_path / VERIFICATIONS).schema
    assert schema.names == list(named(VERIFICATION_COLUMNS, "accuracy"))


def test_row_has_every_column():
    state = StudyState(every_kind())
    assert set(record_row(state.trials[0])) == set(named(RECORD_COLUMNS, "accuracy"))
    with pytest.raises(ValueError, match="no record"):
        record_row(StudyState([opened(), *begin()]).trials[0])
