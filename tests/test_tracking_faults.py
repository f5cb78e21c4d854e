"""Whatever the tracking server does, it holds in the end what it would have held without."""

from __future__ import annotations

import json
import resource
from random import Random

import pytest
from fake_mlflow import FakeMlflow, Fault, TrackerDied
from hypothesis import given, settings
from hypothesis import strategies as st
from log_helpers import INFO, begin, curve, end, make_trial, opened, trial_id, verified, whole
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from analysis.load import RUN, RUNS
from study.events import Answered, Closed, Frozen, Member, Reported, Started, Suggested
from study.log import FILE, to_line
from study.store.files import artifact
from study.store.storage import Storage
from study.tracking.shown import curve as curve_of
from study.tracking.stored import StoredRun
from study.tracking.worker import FIRST_WAIT, LONGEST_WAIT, Waits, Worker
from trainables.record import Report, Status

PIECES = [
    [opened(), *begin(-1, role="dense"), *curve(-1), *end(-1)],
    [*begin(0), *curve(0, 3)],
    [*curve(0)[3:], *begin(1), *end(0), *curve(1, 2)],
    # Interrupted, and run again from its beginning.
    [Started(1, trial_id(1), 300.0), *curve(1), *end(1, status=Status.STOPPED), *begin(2)],
    [*end(2, status=Status.FAILED), Suggested(3, "search", {}, make_trial(0), trial_id(0))],
    [Answered(3, trial_id(0)), *whole(4), verified(0), *begin(5), *curve(5, 1)],
    [Closed(400.0, "exit 0", 100.0)],
]
SUMMARY = "# s\n\nA headline.\n\n![](front.png)\n\n## What to ship\n\n- This.\n\n## Baselines\n"
REPORT = {"summary.md": SUMMARY, "report.html": "<p>", "charts/rank.csv": "1", "charts/a.csv": "2"}
LAST = {"status": "FINISHED", "front": [trial_id(0)]}


def worker_of(uri, store):
    config = {"storage": uri, "name": "s", "uri": "fake", "params": {"trials": "4"}}
    return Worker(config | {"owner": "host:1:1"}, store.client, sleep=lambda seconds: None)


def tracked(storage, store, pieces=PIECES):
    """Write the log a piece at a time; after each the tracker looks, and is replaced if it died."""
    written = b""
    storage.write_bytes(FILE, written)
    storage.write_bytes(artifact(trial_id(0)), b"model")
    storage.write_text("study.json", json.dumps(INFO))
    for name, text in REPORT.items():
        storage.write_text(f"report/{name}", text)
    worker = worker_of(storage.uri, store)

    def alive(action):
        nonlocal worker
        while True:
            try:
                return action(worker)
            except TrackerDied:
                worker = worker_of(storage.uri, store)

    for piece in pieces:
        written += b"".join(map(to_line, piece))
        storage.write_bytes(FILE, written)
        alive(lambda worker: worker.step())
    summary = alive(lambda worker: worker.finish({**LAST, "patience": 5.0}))
    assert (summary["error"], summary["missing"]) == (None, 0)
    return store.content()


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return Storage.open(tmp_path_factory.mktemp("faults") / "study")


@pytest.fixture(scope="module")
def undisturbed(storage):
    return tracked(storage, FakeMlflow())


def test_the_store_holds_the_log(undisturbed):
    assert set(undisturbed) == {
        "study",
        "models",
        "experiment",
        *(trial_id(n) for n in (-1, 0, 1, 2, 4, 5)),
    }
    name, status, ended, tags, params, points, files = undisturbed[trial_id(1)]
    assert (name, status, ended, set(files)) == (
        "001 int1 lora r4",
        "FINISHED",
        110_000,
        {"record.json"},
    )
    assert [point[1] for point in points if point[0] == "val/accuracy"] == [0, 1, 2, 3, 4]
    assert undisturbed[trial_id(2)][1] == "FAILED"
    assert undisturbed[trial_id(5)][1] == "KILLED"
    assert undisturbed["study"][2] == 400_000
    assert undisturbed["study"][-1] == {"study.json": json.dumps(INFO), **REPORT}
    note = undisturbed["study"][3]["mlflow.note.content"]
    assert note.startswith("[The report](")
    for text in ("A headline.", "- This.", f"/runs/{trial_id(0)}?", "54.00% | 95.00%"):
        assert text in note
    ((key, view),) = undisturbed["experiment"].items()
    assert json.loads(view)["name"] == "s"
    assert f"viewStateShareKey={key.removeprefix('mlflow.sharedViewState.')}" in note
    (model,) = undisturbed["models"].items()
    assert model[0] == trial_id(0)
    assert model[1][:2] == ("000 int1 lora r4", LoggedModelStatus.READY)
    assert ("test/accuracy", 0, 0.95) in model[1][-1]
    assert set(undisturbed[trial_id(0)][-1]) == {"record.json", f"model/{trial_id(0)}.safetensors"}


@pytest.mark.parametrize("uri", ["http://me:secret@host:5000/base/", "sqlite:///mlflow.db"])
def test_a_report_learns_where_a_browser_finds_the_runs_of_the_front(uri, tmp_path):
    storage, store = Storage.open(tmp_path / "study"), FakeMlflow()
    config = {"storage": storage.uri, "name": "s", "uri": uri, "params": {}, "owner": "host:1:1"}
    worker = Worker(config, store.client, sleep=lambda seconds: None)
    log = [event for piece in PIECES[:5] for event in piece]
    storage.write_bytes(FILE, b"".join(map(to_line, log)))
    assert worker.step()
    assert not storage.exists(RUNS)  # while there is no front
    frozen = Frozen(300.0, (Member(trial_id(0), (trial_id(0),)),))
    storage.write_bytes(FILE, b"".join(map(to_line, [*log, frozen])))
    assert worker.step()
    if not uri.startswith("http"):
        assert not storage.exists(RUNS)
        return
    found = json.loads(storage.read_text(RUNS))
    assert found.keys() == {trial_id(-1), trial_id(0)}
    for link in found.values():
        assert RUN.fullmatch(link)
        assert link.startswith("http://host:5000/base/#/experiments/")
    assert len(set(found.values())) == 2


@given(st.lists(st.sampled_from(list(Fault)), max_size=60), st.integers(0, 60))
@settings(max_examples=60)
def test_any_faults_end_in_the_same_store(storage, undisturbed, faults, first):
    store = FakeMlflow([Fault.NONE] * first + faults)
    assert tracked(storage, store) == undisturbed


@given(st.lists(st.sampled_from(list(Fault)), max_size=60), st.integers(0, 60))
@settings(max_examples=60)
def test_any_faults_in_a_backlog_end_in_the_same_store(storage, undisturbed, faults, first):
    """All trials at once, as a tracker finds them that was away."""
    store = FakeMlflow([Fault.NONE] * first + faults)
    assert tracked(storage, store, [[event for piece in PIECES for event in piece]]) == undisturbed


def test_a_backlog_takes_five_requests_a_trial(storage):
    """A run made, its points, its file, a look at that, its end; the rest is asked of many."""
    lines = [*map(to_line, [opened(), *(e for n in range(64) for e in whole(n))])]
    storage.write_bytes(FILE, b"".join(lines))
    worker = worker_of(storage.uri, store := FakeMlflow())
    assert worker.step()
    assert len(store.active()) == 65
    assert all(run.status == "FINISHED" for run in store.active() if "number" in run.tags)
    assert store.requests <= 64 * 5 + 20


FAULTS = [fault for fault in Fault if fault is not Fault.NONE]


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_at_each_request(storage, undisturbed, fault):
    """At each fifth: together the five kinds stand at all."""
    clean = FakeMlflow()
    tracked(storage, clean)
    assert clean.requests > 50
    for number in range(FAULTS.index(fault), clean.requests, len(FAULTS)):
        store = FakeMlflow([Fault.NONE] * number + [fault])
        assert tracked(storage, store) == undisturbed, (fault, number)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_one_or_two_faults_at_each_request(storage, undisturbed, fault):
    clean = FakeMlflow()
    tracked(storage, clean)
    for number in range(clean.requests):
        for then in ([], [Fault.NONE, Fault.UNANSWERED], [Fault.DIES]):
            store = FakeMlflow([Fault.NONE] * number + [fault, *then])
            assert tracked(storage, store) == undisturbed, (fault, number, then)


class Refusing(FakeMlflow):
    """Takes no metric of one trial, as MLflow refuses names that it does not like."""

    refused = trial_id(1)

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        if self.refused == self.runs[run_id].tags.get("paretune.trial") and metrics:
            raise MlflowException("Invalid value", INVALID_PARAMETER_VALUE)
        super().log_batch(run_id, metrics, params, tags)


def test_a_trial_that_is_refused_keeps_no_other_waiting(storage):
    storage.write_bytes(FILE, b"".join(to_line(e) for piece in PIECES for e in piece))
    worker = worker_of(storage.uri, store := Refusing())
    for _ in range(3):
        assert not worker.step()
    status = {run.tags.get("paretune.trial"): run.status for run in store.active()}
    assert status[trial_id(4)] == status[trial_id(0)] == "FINISHED"
    assert status[trial_id(1)] == "RUNNING"
    store.refused = None
    assert worker.step()
    assert store.content()[trial_id(1)][1] == "FINISHED"


def test_a_store_that_was_lost_is_filled_again(storage, undisturbed):
    storage.write_bytes(FILE, b"".join(to_line(e) for piece in PIECES for e in piece))
    worker = worker_of(storage.uri, store := FakeMlflow())
    assert worker.step()
    store.runs.clear()
    store.experiment = None
    assert worker.finish({**LAST, "patience": 5.0})["error"] is None
    assert store.content() == undisturbed


def test_a_run_that_someone_deleted_is_made_again_by_the_next_tracker(storage, undisturbed):
    store = FakeMlflow()
    tracked(storage, store)
    next(run for run in store.active() if run.tags.get("number") == "4").deleted = True
    before = store.requests
    assert worker_of(storage.uri, store).finish({**LAST, "patience": 5.0})["error"] is None
    assert store.content() == undisturbed
    assert store.requests - before < 40


def test_a_long_outage_leaves_a_backlog_of_trials_not_of_events(storage):
    lines = list(map(to_line, [opened(), *begin(0), *begin(1)]))
    worker = worker_of(storage.uri, FakeMlflow([Fault.REFUSED] * 10))
    for _ in range(10):
        lines += [to_line(long_report(epoch)) for epoch in range(100)]
        storage.write_bytes(FILE, b"".join(lines))
        assert not worker.step()
        assert set(worker._behind) == {0, 1}


def long_report(epoch):
    return Reported(0, trial_id(0), Report(epoch, {"accuracy": epoch / 1e6}, 0.1, float(epoch)))


@pytest.mark.slow
def test_100_000_reports_wait_in_little_memory_and_arrive(storage):
    """Of the process: what a report takes in the study's state, and nothing for the outage."""
    lines = map(to_line, [opened(), *begin(0), *map(long_report, range(100_000))])
    storage.write_bytes(FILE, b"".join(lines))
    store = FakeMlflow([Fault.REFUSED] * 100)
    worker, before = worker_of(storage.uri, store), most_memory()
    assert not worker.step()
    read = most_memory()
    for _ in range(99):
        assert not worker.step()
    waited = most_memory()
    print(f"\n{(read - before) / 1e6:.0f} MB read, {(waited - read) / 1e6:.1f} MB for the outage")
    assert read - before < 400e6
    assert waited - read < 5e6
    run = StoredRun("r", 0, "RUNNING", {}, frozenset(), {})
    points = list(curve_of(worker._state.trials[0], run.latest, run.start))
    assert [p.step for p in points if p.key == "val/accuracy"] == list(range(100_000))


def most_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_waits_grow_to_a_bound_and_differ(storage):
    one, other = Waits(Random(1)), Waits(Random(2))
    firsts, seconds = ([w.next() for _ in range(50)] for w in (one, other))
    assert firsts != seconds
    assert FIRST_WAIT / 2 <= firsts[0] <= FIRST_WAIT
    assert all(LONGEST_WAIT / 2 <= wait <= LONGEST_WAIT for wait in firsts[5:])
    one.reset()
    assert one.next() <= FIRST_WAIT
