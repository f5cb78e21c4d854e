"""A trial without room is run once more, alone; then it counts as infeasible."""

from __future__ import annotations

import pytest
import torch
from fake_runner import CONFIG, FakeRunner

from study.config import parse_config
from study.events import SEARCH, Ended, Retried, Started
from study.loop.retries import loss_of
from trainables.hardware import memory
from trainables.record import OUT_OF_MEMORY, Outcome, Status, from_json, to_json

CROWD = 2


def _with_others(trial, others):
    """Room for two at once; int1 needs more, as the hungry do."""
    return trial.layers[0].methods[0].name == "int1" and others >= CROWD


def _never(trial, others):
    return trial.layers[0].methods[0].name == "int1"


def _alone_spans(log):
    """For each second start after a retry: who else ran then."""
    running, retried, beside = set(), set(), []
    for event in log:
        if isinstance(event, Started):
            running.add(event.number)
            if event.number in retried or running & retried:
                beside.append(len(running) - 1)
        elif isinstance(event, Retried):
            running.discard(event.number)
            retried.add(event.number)
        elif isinstance(event, Ended):
            running.discard(event.number)
            retried.discard(event.number)
    return beside


def test_what_has_room_alone_succeeds_and_nothing_runs_beside_it():
    runner = FakeRunner(concurrency=4, crowds=_with_others).run()
    retried = [e for e in runner.log if isinstance(e, Retried)]
    assert retried
    assert set(_alone_spans(runner.log)) == {0}
    assert not [r for r in runner.state.records if r.outcome.failed]
    for event in retried:
        trial = runner.state.trials[event.number]
        assert (trial.starts, trial.alone) == (2, True)
    assert any("once more, alone" in text for text in runner.said)
    counts = runner.state.counts()
    assert counts["completed"] + counts["stopped"] == 12


def test_what_has_no_room_alone_is_infeasible():
    runner = FakeRunner(concurrency=3, crowds=_never).run()
    failed = [r for r in runner.state.records if r.outcome.status is Status.OUT_OF_MEMORY]
    assert failed
    assert {r.outcome.cause for r in failed} == {OUT_OF_MEMORY}
    assert not [r for r in runner.state.records if r.outcome.status is Status.FAILED]
    searched = [t for t in runner.state.ended if t.role == SEARCH and t.phase == "out_of_memory"]
    assert runner.state.counts()["out_of_memory"] == len(searched) > 0
    numbers = [e.number for e in runner.log if isinstance(e, Retried)]
    assert len(numbers) == len(set(numbers)) == len(failed)
    told = [t.state.name for t in runner.search._optuna.trials]
    assert told.count("FAIL") == len(failed)
    assert "RUNNING" not in told


def test_the_last_trial_is_retried_though_the_searcher_has_finished():
    config = parse_config(CONFIG.replace("trials: 12", "trials: 1"))
    runner = FakeRunner(config, concurrency=8, crowds=lambda t, others: t.epochs and others > 0)
    runner.run()
    assert any(isinstance(e, Retried) for e in runner.log)
    assert not runner.state.interrupted()
    assert not [r for r in runner.state.records if r.outcome.failed]


def _told(runner):
    """As an undisturbed study's: phases and records; a killed process may spare a crowd."""
    return {
        n: (t.role, t.trial_id, t.phase, t.record.outcome.cause if t.record else None)
        for n, t in runner.state.trials.items()
    }


@pytest.mark.slow
def test_a_kill_at_any_event_changes_nothing_after_resume():
    whole = FakeRunner(crowds=_never).run()
    total = len(whole.log)
    for kill in range(1, total):
        first = FakeRunner(breaks_after=kill, crowds=_never)
        with pytest.raises(InterruptedError):
            first.run()
        resumed = FakeRunner(events=list(first.log), crowds=_never).run()
        assert _told(resumed) == _told(whole), f"killed after event {kill} of {total}"
        retried = [e.number for e in resumed.log if isinstance(e, Retried)]
        assert len(retried) == len(set(retried))


def test_killed_workers_are_retried_and_do_not_end_the_study():
    runner = FakeRunner()
    for i in range(8):  # four baselines, each killed twice
        assert runner.driver.next(f"t{i}") != "FINISHED"
        assert runner.driver.next("another") is None
        runner.driver.on_lost(f"t{i}", loss_of("low memory", out_of_memory=True))
    assert not runner.driver.broken
    assert [r.outcome.cause for r in runner.state.records] == [OUT_OF_MEMORY] * 4


def _refused_by_torch():
    torch.empty(2**60, dtype=torch.uint8)


def _refused_by_python():
    bytearray(2**60)


def _refused_inside():
    try:
        _refused_by_python()
    except MemoryError as error:
        raise ValueError("layer 3") from error


@pytest.mark.parametrize("allocate", [_refused_by_torch, _refused_by_python, _refused_inside])
def test_refused_allocations_are_known(allocate):
    with pytest.raises((RuntimeError, MemoryError, ValueError)) as caught:
        allocate()
    assert memory.is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error", [ValueError("can't allocate memory"), RuntimeError("shapes differ"), KeyError("x")]
)
def test_other_errors_are_not(error):
    assert not memory.is_out_of_memory(error)


@pytest.mark.parametrize(
    ("told", "kills", "expected"),
    [
        ("ray.exceptions.OutOfMemoryError: Task was killed", 0, True),
        ("killed due to the node running low on memory", 0, True),
        ("The actor died. (1) killed by SIGKILL by OOM killer", 1, True),
        ("The actor died. (1) killed by SIGKILL by OOM killer", 0, False),
        ("no module of that name", 1, False),
    ],
)
def test_deaths_are_told_apart(monkeypatch, told, kills, expected):
    counts = iter([5, 5 + kills])
    monkeypatch.setattr(memory, "_oom_kills", lambda: next(counts))
    assert memory.Kills().is_one(told) is expected


def test_the_cause_has_no_place_in_it():
    outcome = Outcome(Status.FAILED, error=f"{OUT_OF_MEMORY}: 3 GB (recover.py:70)")
    assert outcome.cause == OUT_OF_MEMORY


def test_a_record_from_before_the_status_has_it_now():
    """Then it was written as failed, with the cause that tells."""
    old = {"status": "failed", "error": f"{OUT_OF_MEMORY}: 3 GB (recover.py:70)"}
    read = from_json(Outcome, old)
    assert read.status is Status.OUT_OF_MEMORY
    assert read.failed
    assert from_json(Outcome, to_json(read)) == read
    other = from_json(Outcome, {"status": "failed", "error": "ValueError: out of memory, I say"})
    assert other.status is Status.FAILED


def test_the_meter_starts_anew():
    meter = memory.Meter(torch.device("cpu"))
    before = meter.peak()
    if before is None:
        pytest.skip("this system does not tell a process's peak memory")
    block = torch.ones(64 << 20, dtype=torch.uint8)
    assert meter.peak() >= before + block.nbytes * 0.9
    del block
    assert memory.Meter(torch.device("cpu")).peak() < meter.peak() + (32 << 20)
