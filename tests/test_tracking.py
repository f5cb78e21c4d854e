"""MLflow mirrors the study log; it may fail or die without the study noticing."""

import base64
import http.server
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from log_helpers import (
    FINGERPRINT,
    INFO,
    SIZE,
    begin,
    curve,
    end,
    make_record,
    make_trial,
    opened,
    trial_id,
    verified,
    whole,
)

from study.events import Answered, Ended, Frozen, Member, Started, Suggested
from study.log import EventLog
from study.state import StudyState
from study.store.storage import Storage
from study.tracking import (
    Summary,
    Tracker,
    TrackingError,
    check_reachable,
    default_tracking_uri,
    ui_command,
)
from study.tracking.client import Client
from study.tracking.mirror import Mirror
from trainables.record import Status, canonical


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An empty MLflow database: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    code = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return path.read_bytes()


@pytest.fixture
def store(tmp_path, template, monkeypatch):
    (tmp_path / "mlflow.db").write_bytes(template)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def storage(tmp_path):
    return Storage.open(tmp_path / "results" / "study")


def append(storage, *events):
    with EventLog(storage) as log:
        for event in events:
            log.append(event)


def client_of(store):
    from mlflow import MlflowClient

    return MlflowClient(store)


def runs_of(store):
    """(study's runs, trials' runs by number)."""
    client = client_of(store)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = [r for r in runs if "paretune.trial" not in r.data.tags]
    trials = [r for r in runs if "paretune.trial" in r.data.tags]
    by_number = {int(r.data.tags["number"]): r for r in trials}
    assert len(by_number) == len(trials)
    return parents, by_number


def wait_for(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_study_in_mlflow(storage, store):
    append(
        storage,
        opened(),
        *begin(-1, role="dense"),
        *end(-1),
        *whole(0),
        *begin(1),
        *end(1, status=Status.FAILED),
        Suggested(2, "search", {"method": "int1"}, make_trial(0), trial_id(0)),
        Answered(2, trial_id(0)),
        *begin(3),
        *curve(3, 2),
        verified(0),
    )
    storage.write_bytes(f"artifacts/{trial_id(0)}.safetensors", b"model")
    storage.write_text("study.json", json.dumps(INFO))
    tracker = Tracker(storage, "my-study", store, {"trials": "4"})
    summary = tracker.finish(front=[trial_id(0)])
    assert summary.error is None, summary
    assert (summary.runs, summary.missing) == (4, 0)
    (parent,), trials = runs_of(store)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "my-study"
    assert parent.data.params == {"trials": "4"}
    check_growth(client_of(store), parent, trials=2)
    status = {number: run.info.status for number, run in trials.items()}
    assert status == {-1: "FINISHED", 0: "FINISHED", 1: "FAILED", 3: "KILLED"}
    assert {r.data.tags["mlflow.parentRunId"] for r in trials.values()} == {parent.info.run_id}
    assert trials[-1].data.tags["role"] == "dense"
    assert trials[1].data.tags["error"] == make_record(1, Status.FAILED).outcome.error
    assert trials[3].data.tags["status"] == "interrupted"
    assert trials[1].data.tags["on_front"] == "false"
    check_good_run(client_of(store), trials[0])


def check_growth(client, parent, trials):
    """One trial came to something, the first that ended; the last of all gained nothing."""
    area = (0.54 - 0.1) * math.log2(SIZE.ratio)
    history = client.get_metric_history(parent.info.run_id, "hypervolume")
    assert sorted((m.step, m.value) for m in history) == [
        (1, pytest.approx(area)),
        (trials, pytest.approx(area)),
    ]


def check_good_run(client, run):
    tags, metrics = run.data.tags, run.data.metrics
    size = make_record(0).outcome.size
    assert tags["paretune.trial"] == trial_id(0)
    assert (tags["status"], tags["on_front"], tags["verified"]) == ("completed", "true", "true")
    assert {"method": "int1", "rank": "4", "lr": "0.01", "adapter": "lora"}.items() <= (
        run.data.params.items()
    )
    expected = {
        "val_accuracy": 0.54, "ratio": size.ratio, "file_bytes": 16,
        "macs": 100, "seconds": 1.5, "test/accuracy": 0.95, "layer_ratio": size.layer_ratio,
    }  # fmt: skip
    assert expected.items() <= metrics.items()
    history = client.get_metric_history(run.info.run_id, "val/accuracy")
    assert sorted((m.step, m.value) for m in history) == [(e, 0.5 + e / 100) for e in range(5)]
    assert (run.info.start_time, run.info.end_time) == (100_000, 105_000)
    files = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert files == {"record.json", "model"}
    path = client.download_artifacts(run.info.run_id, "record.json")
    with open(path) as file:
        assert file.read() == canonical(make_record(0))
    model = client.list_artifacts(run.info.run_id, "model")
    assert [f.path for f in model] == [f"model/{trial_id(0)}.safetensors"]


def test_a_killed_tracker_makes_no_second_run(storage, store):
    with EventLog(storage) as log:
        for event in [opened(), *whole(0), *begin(1), *curve(1, 3)]:
            log.append(event)
        tracker = Tracker(storage, "s", store)
        wait_for(lambda: len(runs_of(store)[1]) == 2)
        os.kill(tracker._process.pid, signal.SIGKILL)
        tracker._process.wait()
        for event in [*curve(1, 5)[3:], *end(1), *whole(2)]:
            log.append(event)
    summary = tracker.finish()
    assert (summary.error, summary.runs) == (None, 3)
    (parent,), trials = runs_of(store)
    assert {r.info.status for r in [parent, *trials.values()]} == {"FINISHED"}
    history = client_of(store).get_metric_history(trials[1].info.run_id, "val/accuracy")
    assert sorted(m.step for m in history) == [0, 1, 2, 3, 4]


def test_a_killed_study_is_closed_and_then_continued(storage, store, tmp_path):
    append(storage, opened(90.0), *whole(0), *begin(1, 120.0), *curve(1, 2))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, storage.uri, store])
    wait_for(lambda: len(runs_of(store)[1]) == 2)
    driver.kill()
    driver.wait()
    wait_for(lambda: runs_of(store)[1][1].info.status == "KILLED")
    assert runs_of(store)[0][0].info.status == "KILLED"
    append(storage, opened(200.0, resumed=True), begin(1, 210.0)[1], *curve(1), *end(1, 220.0))
    assert Tracker(storage, "s", store).finish().error is None
    (parent,), trials = runs_of(store)
    assert {r.info.status for r in [parent, *trials.values()]} == {"FINISHED"}
    history = client_of(store).get_metric_history(trials[1].info.run_id, "val/accuracy")
    assert sorted(m.step for m in history) == [0, 1, 2, 3, 4]


DRIVER = """
import sys, time
from study.store.storage import Storage
from study.tracking import Tracker
tracker = Tracker(Storage.open(sys.argv[1]), "s", sys.argv[2])
time.sleep(60)
"""


def test_runs_of_other_dead_studies_are_closed_and_of_living_ones_not(storage, store, tmp_path):
    client = client_of(store)
    experiment = client.create_experiment("paretune")
    from study.store.lease import process_name

    host, pid, started = process_name().split(":")
    owners = {"alive": process_name(), "dead": f"{host}:{pid}:1", "far": f"far:{pid}:{started}"}
    for study, owner in owners.items():
        tags = {"paretune.study": study, "paretune.owner": owner, "paretune.beat": "1.0"}
        client.create_run(experiment, tags=tags, run_name=study)
        child = {"paretune.study": study, "paretune.trial": "x"}
        client.create_run(experiment, tags=child, run_name=study)
    stranger = client.create_run(experiment)
    append(storage, opened())
    assert Tracker(storage, "s", store).finish().error is None
    runs = client.search_runs([experiment])
    status = {(r.info.run_name, r.info.status) for r in runs if "paretune.study" in r.data.tags}
    assert status == {
        ("alive", "RUNNING"),
        ("dead", "KILLED"),
        ("far", "KILLED"),
        ("s", "FINISHED"),
    }
    assert client.get_run(stranger.info.run_id).info.status == "RUNNING"


def test_a_front_can_change(storage, store):
    append(storage, opened(), *whole(0), *whole(1))
    assert Tracker(storage, "s", store).finish(front=[trial_id(0)]).error is None
    assert Tracker(storage, "s", store, {"trials": "9"}).finish(front=[trial_id(1)]).error is None
    trials = runs_of(store)[1]
    assert [trials[n].data.tags["on_front"] for n in (0, 1)] == ["false", "true"]


def test_a_store_that_fails_is_told_and_does_not_raise(storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    append(storage, opened(), *whole(0))
    tracker = Tracker(storage, "s", f"sqlite:///{tmp_path}/broken.db")
    summary = tracker.finish(timeout=8)
    assert summary.error
    assert "MLflow: " in str(summary)


def test_a_tracker_that_cannot_start_is_told(storage, store, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    summary = Tracker(storage, "s", store).finish()
    assert "did not start" in summary.error


def test_summary_is_a_sentence():
    assert str(Summary(3)) == "MLflow: 3 runs are up to date"
    text = str(Summary(3, 2, "OperationalError: disk is full"))
    assert text.startswith("MLflow: 2 trials are missing: OperationalError: disk is full")


# Where the store is.


def test_default_is_what_plain_mlflow_opens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert ui_command(default_tracking_uri()) == "mlflow ui"
    other = f"sqlite:///{tmp_path}/other.db"
    assert ui_command(other) == f"mlflow ui --backend-store-uri {other}"
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("")
    assert "--backend-store-uri" in ui_command(default_tracking_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://here:5000")
    assert ui_command(default_tracking_uri()) == "http://here:5000"


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:{closed}", "refused"),
        ("postgresql://me:secret@127.0.0.1:{closed}/db", "refused"),
        ("sqlite:///{folder}/none/m.db", "there is no folder"),
        ("sqlite:///{folder}/text.db", "no SQLite database"),
        ("sqlite://", "expected sqlite:///PATH"),
        ("{folder}/mlruns", "no longer writes folders"),
        ("ftp://x", "expected sqlite:///PATH"),
    ],
)
def test_a_store_that_cannot_be_used(tmp_path, uri, reason):
    (tmp_path / "text.db").write_text("this is no database at all")
    shown = uri.format(closed=closed_port(), folder=tmp_path)
    with pytest.raises(TrackingError, match=reason) as caught:
        check_reachable(shown, timeout=5)
    assert "secret" not in str(caught.value)


def test_a_server_that_does_not_answer_is_told_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(TrackingError, match=r"no answer"):
            check_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(("code", "good"), [(200, True), (401, True), (503, False)])
def test_a_server_that_answers(code, good):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        if good:
            check_reachable(uri)
        else:
            with pytest.raises(TrackingError, match="error 503"):
                check_reachable(uri)
        server.shutdown()


def test_the_password_of_a_servers_address_is_given_as_browsers_do():
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            got.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        check_reachable(f"http://me:p%40ss@127.0.0.1:{server.server_port}/under")
        check_reachable(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    login = base64.b64encode(b"me:p@ss").decode()
    assert got == [("/under/health", f"Basic {login}"), ("/health", None)]


def test_a_database_that_is_not_there_yet_is_fine(tmp_path):
    check_reachable(f"sqlite:///{tmp_path}/new.db")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_burst_of_200_trials(storage, store, capsys):
    append(storage, opened(), *(event for n in range(200) for event in whole(n)))
    tracker = Tracker(storage, "burst", store)
    summary = tracker.finish()
    assert (summary.error, summary.runs) == (None, 200)
    with capsys.disabled():
        print(f"\ntracker alone: {200 / summary.seconds:.0f} trials of five reports a second")


def test_runs_with_other_seeds_stand_under_the_trial_that_they_repeat(store):
    trial = replace(make_trial(0), seed=7)
    again = trial.trial_id(FINGERPRINT)
    record = replace(make_record(0), trial=trial)
    params = {"of": trial_id(0), "until": 4}
    member = Member(again, (trial_id(0), again), 0.5, 0.4, 0.6, 0.9)
    state = StudyState(
        [
            opened(),
            *whole(0),
            Suggested(1, "confirm", params, trial, again),
            Started(1, again, 200.0),
            Ended(1, again, record, 210.0),
            Frozen(220.0, (member,)),
        ]
    )
    mirror = Mirror(Client(store), "s", state.study_id, "host:1")
    mirror.reconcile({})
    for one in state.trials.values():
        mirror.sync([one], {})
    for _ in range(2):  # a tracker that died in between does it again
        mirror.show_seeds(state.frozen)
    mirror.finish("FINISHED", (), {}, 230.0)
    (parent,), runs = runs_of(store)
    first, found = runs[0], runs[1]
    assert found.data.tags["mlflow.parentRunId"] == first.info.run_id
    assert first.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert found.data.tags["role"] == "confirm"
    shown = {k: found.data.metrics[k] for k in ("val_mean", "val_low", "val_high", "probability")}
    assert list(shown.values()) == [0.5, 0.4, 0.6, 0.9]
    assert "val_mean" not in first.data.metrics
    history = client_of(store).get_metric_history(found.info.run_id, "val_mean")
    assert len(history) == 1
