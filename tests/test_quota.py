"""A study's files within a quota: what is needed is there after every event, whatever happened."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

import pytest
from fake_runner import usual
from hypothesis import given, settings
from hypothesis import strategies as st
from log_helpers import make_trial

from compression.registry import InvalidSetting
from study.config import parse_config
from study.events import (
    CONFIRM,
    SEARCH,
    Ended,
    Frozen,
    Member,
    Opened,
    Reported,
    Started,
    Suggested,
)
from study.fields.sections import Confirm
from study.keeping.disk import as_text, counted, left_over, tidy, used
from study.keeping.quota import Quota
from study.keeping.retention import Retention, missing
from study.loop.confirm import freeze, front, seed_of
from study.objectives import aims
from study.state import StudyState
from study.store.files import CHECKPOINTS, artifact, owner, probe
from study.store.storage import Storage
from trainables.record import Fingerprint, Origin, Outcome, Parts, Record, Report, Size, Status

CONFIG = usual()
AIMS = aims(CONFIG.task)
RULE = Confirm(seeds=3, within="1pp")
ON = Fingerprint("w", "d")
BASE = make_trial(0)


def outcome(status, accuracy, size):
    if status is Status.FAILED:
        return Outcome(status, error="ValueError: it fails")
    curve = (Report(0, {"accuracy": accuracy}, seconds=1.0),)
    parts = Parts(base=size)
    whole = Size(parts, parts, Parts(base=10_000), Parts(base=10_000), 8, 64)
    return Outcome(status, 1, 0, {"val": {"accuracy": accuracy}}, whole, size, 1.0,
                   sha256="ab" * 32, curve=curve)  # fmt: skip


class Play:
    """A study without a driver: events are applied, files written, and retention is told."""

    def __init__(self, folder, quota, events=()):
        shutil.rmtree(folder, ignore_errors=True)
        self.storage, self.most = Storage.open(folder), quota
        self.events = list(events)
        self.state, self.number, self.written = StudyState(), 0, set()
        self.resume()

    def resume(self):
        """Another process takes over: all that is known is the log and the files."""
        self.state = StudyState(self.events)
        opened = Opened(time.time(), "id", {}, bool(self.events))
        self.emit(opened, told=False)
        self.said = []
        tidy(self.storage, self.state)
        assert not left_over(self.storage, self.state)
        self.state.gone = missing(self.state, self.storage)
        quota = Quota(self.storage, self.most, self.said.append)
        self.keeper = Retention(self.storage, self.state, AIMS, 0.01, quota=quota)
        self.fitted = True

    def emit(self, event, told=True):
        self.events.append(event)
        self.state.apply(event)
        if told:
            self.keeper.put(event)
            # Room is made when a trial begins or ends; a checkpoint and a freeze are no such event.
            self.fitted = isinstance(event, Started | Ended)

    def begin(self, role=SEARCH, of=None, seed=0):
        number = self.number - 1000 if role not in (SEARCH, CONFIRM) else self.number
        self.number += 1
        trial = replace(BASE, lr=0.001 * (self.number if of is None else 1 + of), seed=seed)
        trial_id = trial.trial_id(ON)
        params = {} if role != CONFIRM else {"of": self.state.trials[of].trial_id, "until": 1}
        self.emit(Suggested(number, role, params, trial, trial_id))
        self.emit(Started(number, trial_id, time.time()))
        return number

    def end(self, number, result, size):
        trial = self.state.trials[number]
        self.storage.write_bytes(artifact(trial.trial_id), b"x" * size)
        self.storage.write_bytes(probe(trial.trial_id), b"x" * 100)
        record = Record(trial.trial, result, Origin(ON))
        self.emit(Ended(number, trial.trial_id, record, time.time()))

    def checkpoint(self, number, size):
        trial = self.state.trials[number]
        self.written |= {artifact(trial.trial_id)}
        for generation in (0, 1):
            name = f"{CHECKPOINTS}/{trial.trial_id}.{generation}.safetensors"
            self.storage.write_bytes(name, b"x" * size)
            self.written |= {name}
        self.storage.write_bytes(artifact(trial.trial_id), b"x" * size)  # at a milestone
        report = Report(len(trial.reports), {"accuracy": 0.1}, seconds=1.0)
        self.emit(Reported(number, trial.trial_id, report))

    def needed(self):
        """Names of the files that must be there, not asking the code under test."""
        state, frozen = self.state, self.state.frozen.members if self.state.frozen else ()
        ids = {t.trial_id for t in state.baselines.values() if t.record}
        points = {t.trial_id for t in front(state, AIMS)} | {m.trial_id for m in frozen}
        ids |= points | {r for member in frozen for r in member.replicates}
        ids |= {t.trial_id for t in state.confirmed if t.params["of"] in points}
        filed = {t.trial_id for t in state.ended if t.record.outcome.sha256}
        names = {f(i) for i in ids & filed for f in (artifact, probe)}
        unended = {t.trial_id for t in state.interrupted()}
        return names | {n for n in self.written if owner(n) in unended}

    def there(self):
        return counted(self.storage)

    def check(self):
        files, needed = self.there(), self.needed()
        assert needed <= set(files)
        if self.fitted and sum(files.values()) > self.most:
            assert set(files) == needed
            assert len(self.said) == 1
        assert len(self.said) <= 1


ACCURACY = st.sampled_from([0.5, 0.9, 0.901, 0.905, 0.909, 0.95, 0.955])
SIZE = st.integers(1, 20).map(lambda k: 500 * k)
STEP = st.one_of(
    st.tuples(st.just("run"), ACCURACY, SIZE),
    st.tuples(st.just("open"), st.just(0), SIZE),
    st.tuples(st.just("close"), ACCURACY, SIZE),
    st.tuples(st.just("again"), ACCURACY, SIZE),
    st.tuples(st.sampled_from(["fail", "freeze", "decide", "resume", "leave"]), ACCURACY, SIZE),
)


@given(st.lists(STEP, max_size=25), st.sampled_from([15_000, 25_000, 60_000, 10**6]))
@settings(max_examples=60)
def test_what_is_needed_is_there_and_the_rest_fits(tmp_path_factory, steps, quota):
    play = Play(tmp_path_factory.getbasetemp() / "quota", quota)
    dense = play.begin("dense")
    play.end(dense, outcome(Status.COMPLETED, 0.96, 10_000), 10_000)
    play.check()
    unended = []
    for what, accuracy, size in steps:
        getattr(Moves, what)(play, unended, accuracy, size)
        play.check()


class Moves:
    """What may happen next."""

    def run(self, unended, accuracy, size):
        self.end(self.begin(), outcome(Status.COMPLETED, accuracy, size), size)

    def fail(self, unended, accuracy, size):
        self.end(self.begin(), outcome(Status.FAILED, accuracy, size), size)

    def open(self, unended, accuracy, size):
        unended.append(self.begin())
        self.checkpoint(unended[-1], size)

    def close(self, unended, accuracy, size):
        if unended:
            self.end(unended.pop(), outcome(Status.STOPPED, accuracy, size), size)

    def again(self, unended, accuracy, size):
        """A point of the front with another seed."""
        points = front(self.state, AIMS)
        taken = {(t.params["of"], t.trial.seed) for t in self.state.confirmed}
        seeds = [seed_of(0, k) for k in range(1, RULE.seeds)]
        free = [(p, s) for s in seeds for p in points if (p.trial_id, s) not in taken]
        if free:
            point, seed = free[0]
            trial = replace(point.trial, seed=seed)
            number, self.number = self.number, self.number + 1
            params, trial_id = {"of": point.trial_id, "until": 1}, trial.trial_id(ON)
            self.emit(Suggested(number, CONFIRM, params, trial, trial_id))
            self.emit(Started(number, trial_id, time.time()))
            self.end(number, outcome(Status.COMPLETED, accuracy, size), size)

    def freeze(self, unended, accuracy, size):
        self.emit(freeze(self.state, AIMS, time.time()))

    def decide(self, unended, accuracy, size):
        """By means over seeds."""
        self.emit(freeze(self.state, AIMS, time.time(), RULE))

    def leave(self, unended, accuracy, size):
        """A process dies over a file, and another over a trial that nobody has a record of."""
        self.storage.write_bytes(f"artifacts/{'0' * 16}.safetensors", b"x" * 10)
        self.storage.write_bytes(f"artifacts/{'1' * 16}.safetensors.12345678.part", b"x" * 10)
        Moves.resume(self, unended, accuracy, size)

    def resume(self, unended, accuracy, size):
        self.resume()


def test_the_farthest_from_the_front_goes_first(tmp_path):
    play = Play(tmp_path / "s", 3_300)
    for accuracy in (0.900, 0.895, 0.898):
        play.end(play.begin(), outcome(Status.COMPLETED, accuracy, 1000), 1000)
    accuracies = {
        t.record.outcome.metrics["val"]["accuracy"]
        for t in play.state.searched
        if play.state.has_file(t)
    }
    assert accuracies == {0.900, 0.895, 0.898}  # 3 x 1,100 bytes
    play.most = 2_500
    play.resume()
    kept = {t.number for t in play.state.searched if play.state.has_file(t)}
    assert kept == {0, 2}
    assert not play.said


def test_what_killed_processes_left_goes_and_what_is_not_ours_stays(tmp_path):
    play = Play(tmp_path / "s", 10**6)
    ended, unended = play.begin(), play.begin()
    play.checkpoint(unended, 10)
    play.checkpoint(ended, 10)
    play.end(ended, outcome(Status.COMPLETED, 0.9, 100), 100)
    stay = ["notes.txt", "artifacts/mine.safetensors", "artifacts/a.part", "log.jsonl"]
    lost = [
        f"artifacts/{'0' * 16}.safetensors", f"artifacts/{'0' * 16}.probe.safetensors",
        f"checkpoints/{'0' * 16}.1.safetensors", "study.json.0a1b2c3d.part", ".writable-0a1b2c3d",
        f"artifacts/{'0' * 16}.safetensors.0a1b2c3d.part",
    ]  # fmt: skip
    for name in (*stay, *lost):
        play.storage.write_bytes(name, b"x" * 10)
    found = left_over(play.storage, play.state)
    of_ended = {n for n in play.there() if n.startswith(CHECKPOINTS) and "0" * 16 not in n}
    of_ended = {n for n in of_ended if owner(n) == play.state.trials[ended].trial_id}
    assert set(found) == {*lost, *of_ended}
    assert "removed 8 files" in tidy(play.storage, play.state)
    assert tidy(play.storage, play.state) is None
    assert all(play.storage.exists(name) for name in stay)
    play.check()


def test_disk_use_adds_up(tmp_path):
    play = Play(tmp_path / "s", 10**6)
    play.end(play.begin(), outcome(Status.COMPLETED, 0.9, 1000), 1000)
    play.storage.write_bytes("report/report.html", b"x" * 50)
    found = used(play.storage)
    assert found == {"artifacts": 1100, "checkpoints": 0, "rest": 50}
    assert as_text({"artifacts": 3_000_000, "checkpoints": 0, "rest": 500_000}) == (
        "disk: 3.5 MB (artifacts 3.0, rest 0.5)"
    )


@pytest.mark.parametrize("text", ["quota: 0", "quota: 2 pounds", "quota: -1", "quota: 1 kB"])
def test_a_quota_that_cannot_be_is_refused_before_work(text):
    with pytest.raises(InvalidSetting) as caught:
        parse_config(f"task: digits\n{text}\n")
    (line,) = caught.value.errors
    assert "config:2: quota: " in line
    if "kB" in text:
        assert "1,000 bytes; the dense model's file alone takes" in line


def test_a_quota_is_no_part_of_a_study(tmp_path):
    config = parse_config("task: digits\nquota: 2 GB\n")
    assert config.quota == 2e9
    assert parse_config("task: digits\n").quota is None


def test_a_frozen_point_that_ships_another_seed_keeps_all_its_runs(tmp_path):
    """Its test scores over seeds may still be to come."""
    play = Play(tmp_path / "s", 2_000)
    first = play.begin()
    play.end(first, outcome(Status.COMPLETED, 0.5, 1000), 1000)
    Moves.again(play, [], 0.51, 1000)
    Moves.again(play, [], 0.49, 1000)
    runs = tuple(trial.trial_id for trial in play.state.ended)
    play.emit(Frozen(1.0, (Member(runs[1], runs),)))
    play.end(play.begin(), outcome(Status.COMPLETED, 0.95, 100), 100)  # beats it by far
    assert {artifact(i) for i in runs} <= set(play.there())
    play.check()
    play.resume()
    play.check()
    assert "none of them is deleted" in play.said[0]
