"""A real MLflow server is killed, stopped and replaced by nonsense: no metric is lost.

``PARETUNE_OUTAGE_SECONDS`` is how long each outage lasts.
"""

import contextlib
import os
import signal
import sqlite3
import statistics
import threading
import time

import pytest
from log_helpers import begin, end, opened, trial_id
from mlflow_server import MlflowServer, Proxy

from study import log
from study.events import Closed, Reported
from study.log import EventLog
from study.state import StudyState
from study.store.storage import Storage
from study.tracking import Tracker
from trainables.record import Report

OUTAGE = float(os.environ.get("PARETUNE_OUTAGE_SECONDS", "8"))
REPORTS = 20
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300 + 20 * OUTAGE)]


@pytest.fixture
def server(tmp_path):
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.signal(signal.SIGCONT)
    server.kill()


@pytest.fixture
def storage(tmp_path):
    return Storage.open(tmp_path / "results" / "study")


class Study:
    """Writes a log as a study does: a trial of 20 reports a second."""

    def __init__(self, storage):
        self.log, self.number, self.taken = EventLog(storage), 0, []
        self._add(opened())

    def run(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            number, self.number = self.number, self.number + 1
            for event in begin(number, time.time()):
                self._add(event)
            for epoch in range(REPORTS):
                metrics = {"accuracy": (number + epoch / 7) / 1e3, "loss": 1.0 / (epoch + 1)}
                report = Report(epoch, metrics, 0.1 * epoch, epoch / 20)
                self._add(Reported(number, trial_id(number), report))
                time.sleep(1 / REPORTS)
            for event in end(number, time.time()):
                self._add(event)

    def close(self):
        self._add(Closed(time.time(), "exit 0", 1.0))
        self.log.close()

    def _add(self, event):
        began = time.perf_counter()
        self.log.append(event)
        self.taken.append(time.perf_counter() - began)


def compare(storage, uri):
    """Every point of every trial is in the store, once, in order; how many."""
    from mlflow import MlflowClient

    client, state = MlflowClient(uri), StudyState(log.read(storage))
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=10_000)
    of = [run.data.tags.get("paretune.trial", "study") for run in runs]
    assert sorted(of) == sorted(["study", *(t.trial_id for t in state.trials.values())])
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_id, count = dict(zip(of, runs, strict=True)), 0
    for trial in state.trials.values():
        run = by_id[trial.trial_id]
        wanted = {f"val/{k}": [r.metrics[k] for r in trial.reports] for k in ("accuracy", "loss")}
        wanted["train/loss"] = [report.train_loss for report in trial.reports]
        for key, values in wanted.items():
            history = client.get_metric_history(run.info.run_id, key)
            in_time = sorted(history, key=lambda metric: metric.timestamp)
            assert [metric.step for metric in in_time] == list(range(len(values)))
            assert [metric.value for metric in in_time] == values
            count += len(history)
    return count


def shown_runs(uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(found, max_results=10_000) if found else []
    return sum(run.info.status == "FINISHED" for run in runs)


def until_made(database, seconds=120.0):
    """The tracker makes the tables; who opens the store meanwhile makes them as well, and fails."""
    began, found = time.monotonic(), 0
    while not found:
        assert time.monotonic() - began < seconds
        time.sleep(0.3)
        with contextlib.suppress(sqlite3.OperationalError):  # no file, no such table, or locked
            with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as made:
                found = made.execute("SELECT COUNT(*) FROM runs").fetchone()[0]


def recovery(uri, ended, seconds=120.0 + 4 * OUTAGE):
    """Seconds until the store shows so many trials as ended."""
    began = time.monotonic()
    while shown_runs(uri) < ended:
        assert time.monotonic() - began < seconds
        time.sleep(0.3)
    return time.monotonic() - began


def finish(study, tracker, storage, uri, capsys, what):
    study.close()
    summary = tracker.finish(timeout=600.0)
    assert (summary.error, summary.missing) == (None, 0), summary
    points = compare(storage, uri)
    with capsys.disabled():
        middle, most = statistics.median(study.taken), max(study.taken)
        print(
            f"\n{what}: {summary.runs} trials, {points} points, none lost or twice; "
            f"an append took {1e3 * middle:.2f} ms in the median, {1e3 * most:.0f} ms at most"
        )


def test_killed_and_away(server, storage, capsys):
    study, tracker = Study(storage), Tracker(storage, "s", server.uri)
    study.run(6.0)
    recovery(server.uri, 1)
    seen = shown_runs(server.uri)
    server.kill()
    study.run(OUTAGE)
    before = study.number
    server.start()
    first = recovery(server.uri, seen + 1)
    took = first + recovery(server.uri, before)
    study.run(3.0)
    what = f"killed and away for {OUTAGE:g} s; after the server was back the first of {before} "
    what += f"trials came after {first:.1f} s, all after {took:.1f} s"
    finish(study, tracker, storage, server.uri, capsys, what)


def test_stopped(server, storage, capsys):
    study, tracker = Study(storage), Tracker(storage, "s", server.uri)
    study.run(10.0)
    server.signal(signal.SIGSTOP)
    study.run(OUTAGE + 25.0)  # longer than a request is waited for
    server.signal(signal.SIGCONT)
    took = recovery(server.uri, study.number)
    what = f"hung for {OUTAGE + 25:g} s, all there {took:.1f} s after the server was back"
    finish(study, tracker, storage, server.uri, capsys, what)


def test_nonsense_for_answers(server, storage, capsys):
    proxy = Proxy(server.port)
    study, tracker = Study(storage), Tracker(storage, "s", proxy.uri)
    study.run(8.0)
    for mode in ("503", "lost", "429", "empty", "slow", "500", "closed"):
        proxy.mode = mode
        study.run(OUTAGE / 2)
        proxy.mode = "pass"
        study.run(OUTAGE / 4)
    finish(study, tracker, storage, server.uri, capsys, "nonsense for answers")
    proxy.close()


def test_a_tracker_that_is_killed_again_and_again(server, storage, capsys):
    study, tracker = Study(storage), Tracker(storage, "s", server.uri)
    for _ in range(3):
        study.run(12.0)
        os.kill(tracker.pid, signal.SIGKILL)
    study.run(15.0)
    assert tracker.restarts == 3
    finish(study, tracker, storage, server.uri, capsys, "the tracker killed 3 times")


def test_a_database_that_another_one_locks(storage, tmp_path, capsys):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    study, tracker = Study(storage), Tracker(storage, "s", uri)
    study.run(10.0)
    until_made(tmp_path / "mlflow.db")
    recovery(uri, 1)
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        worker = threading.Thread(target=study.run, args=(OUTAGE + 15,))
        worker.start()
        worker.join()
        other.execute("ROLLBACK")
    finish(study, tracker, storage, uri, capsys, f"locked for {OUTAGE + 15:g} s")
