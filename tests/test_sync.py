"""``study.sync``: MLflow after the fact, from the log alone."""

import json

import pytest
from click.testing import CliRunner
from fake_mlflow import FakeMlflow
from log_helpers import begin, opened, trial_id, verified, whole

from study.events import Closed, Frozen, Member
from study.log import EventLog
from study.store import lease
from study.store.storage import Storage
from study.sync import main
from study.tracking import ending
from study.tracking.worker import Worker

INFO = {
    "schema": 1,
    "name": "done",
    "objectives": [
        {"name": "val_accuracy", "direction": "maximize", "unit": "fraction"},
        {"name": "log2_ratio", "direction": "maximize", "unit": ""},
    ],
    "config": {"trials": 4, "space": {"method": ["int1"]}},
}


@pytest.fixture
def store(monkeypatch):
    store = FakeMlflow()
    monkeypatch.setattr(Worker.__init__, "__defaults__", (store.client, lambda seconds: None))
    return store


@pytest.fixture
def study(tmp_path):
    storage = Storage.open(tmp_path / "done")
    members = (Member(trial_id(0), (trial_id(0),)),)
    events = [opened(), *whole(0), *whole(1), *begin(2), Frozen(130.0, members), verified(0)]
    with EventLog(storage) as log:
        for event in [*events, Closed(140.0, "exit 0", 50.0)]:
            log.append(event)
    storage.write_text("study.json", json.dumps(INFO))
    return storage


def run(study, *options):
    return CliRunner().invoke(main, [str(study), "--tracking-uri", "sqlite:///mlflow.db", *options])


def test_a_study_whose_store_was_lost_is_written_again_and_only_once(study, store):
    first = run(study)
    assert (first.exit_code, first.stderr) == (0, "")
    assert "3 runs are up to date" in first.output
    content = store.content()
    assert content["study"][:3] == ("done", "FINISHED", 140_000)
    assert content["study"][4] == {"trials": "4"}
    assert content[trial_id(0)][3]["on_front"] == "true"
    assert content[trial_id(2)][1] == "KILLED"
    assert run(study).exit_code == 0
    assert store.content() == content
    store.runs.clear()
    store.models.clear()
    assert run(study).exit_code == 0
    assert store.content() == content


def test_a_study_that_runs_is_left_to_its_own_tracker(study, store):
    held = lease.take(study)
    try:
        refused = run(study)
        assert refused.exit_code == 1
        assert not store.requests
    finally:
        held.release()


def test_what_is_wrong_is_told(study, store, tmp_path):
    assert run(tmp_path / "none").exit_code == 2
    away = CliRunner().invoke(main, [str(study), "--tracking-uri", f"sqlite:///{tmp_path}/no/m.db"])
    assert away.exit_code == 1
    assert "there is no folder" in away.stderr
    config = {"tracking_uri": "http://***@tracker:5000"}
    study.write_text("study.json", json.dumps(INFO | {"config": config}))
    masked = CliRunner().invoke(main, [str(study)])
    assert masked.exit_code == 2
    assert "give it whole" in masked.stderr


@pytest.mark.parametrize(
    ("reason", "status"),
    [("exit 0", "FINISHED"), ("exit 1", "FAILED"), ("failed", "FAILED"), ("exit 130", "KILLED")],
)
def test_how_a_study_ended_is_in_its_log(study, reason, status):
    from study.state import StudyState

    state = StudyState([opened(1.0), Closed(2.0, reason, 1.0)])
    assert ending(state) == status
    state.apply(opened(3.0, resumed=True))
    assert ending(state) == "KILLED"


def test_a_study_that_may_not_be_written_is_said_in_one_line(study, store, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("study.store.lease.os.open", refuse)
    done = run(study)
    assert done.exit_code == 1
    assert "lease.json: Permission denied" in done.stderr
    assert len(done.stderr.splitlines()) == 1
