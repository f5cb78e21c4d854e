"""Trials whose worker is lost, or whose driver is killed, go on; and no one is tried for ever."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from fake_runner import CONFIG, FakeRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from study.config import parse_config
from study.events import Answered, Cause, Ended, Reported, Retried, Started, decode, encode
from study.loop.retries import HOPELESS, MOST_MOVES, Loss, loss_of
from study.loop.schedule import JudgeScheduler
from study.state import StudyState
from trainables.record import Status, canonical

RANDOM = CONFIG.replace("{tpe: {startup: 4}}", "random")
DIED = Loss(Cause.WORKER, "Worker exit type: SYSTEM_ERROR")
MOVED = Loss(Cause.NODE, "its node has died")


def told(runner):
    return {
        number: (t.role, canonical(t.trial), t.phase, canonical(t.record) if t.record else None)
        for number, t in runner.state.trials.items()
    }


def epochs(events, number):
    return [e.report.epochs_done for e in events if isinstance(e, Reported) and e.number == number]


@pytest.fixture(scope="module")
def undisturbed():
    return FakeRunner(parse_config(RANDOM)).run()


@pytest.mark.parametrize("keeps", [True, False], ids=["checkpoints", "none"])
@pytest.mark.parametrize("loss", [DIED, MOVED], ids=lambda loss: loss.cause.value)
def test_workers_lost_at_every_step_change_no_record(undisturbed, keeps, loss):
    """Each start but a trial's fourth is lost, the first at once, the next one step further."""

    def loses(trial, start, upto):
        return loss if start <= 3 and upto >= start - 1 else None

    runner = FakeRunner(parse_config(RANDOM), loses=loses, keeps=keeps).run()
    assert told(runner) == told(undisturbed)
    retried = [e for e in runner.log if isinstance(e, Retried)]
    assert {e.cause for e in retried} == {loss.cause}
    ran = [t for t in runner.state.ended if t.starts]
    assert all(t.starts > 1 for t in ran)
    assert not runner.state.interrupted()


def test_a_checkpoint_saves_the_epochs_before_it():
    """Lost in the third step: with a checkpoint the first two are not trained again."""
    config = parse_config(RANDOM)

    def third(trial, start, upto):
        return DIED if start == 1 and upto == trial.epochs else None

    for keeps in (True, False):
        runner = FakeRunner(config, loses=third, keeps=keeps).run()
        again = [t for t in runner.state.ended if t.starts == 2 and t.trial.epochs]
        assert again
        for trial in again:
            at, seen = runner.milestones[-1], epochs(runner.log, trial.number)
            twice = sorted({e for e in seen if seen.count(e) > 1})
            assert twice == ([at] if keeps else list(range(at + 1)))
            assert [r.epochs_done for r in trial.reports] == list(range(trial.trial.epochs + 1))


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_any_losses_within_the_limit_and_any_kills_of_the_driver_change_no_record(data):
    """The log of a killed driver is a beginning of what it would have written."""
    config = parse_config(RANDOM.replace("trials: 12", "trials: 5"))
    whole = FakeRunner(config).run()
    causes = st.sampled_from([None, None, DIED, MOVED])
    drawn: dict[tuple, Loss | None] = {}

    def loses(trial, start, upto):
        if start > config.max_retries:
            return None
        return drawn.setdefault((canonical(trial), start, upto), data.draw(causes))

    shelf: dict[str, int] = {}
    events: list = []
    for _ in range(4):
        stop = data.draw(st.integers(len(events) + 2, len(events) + 40))
        runner = FakeRunner(config, events, stop, loses=loses, checkpoints=shelf)
        try:
            runner.run()
        except InterruptedError:
            events = list(runner.log)
    finished = FakeRunner(config, events, loses=loses, checkpoints=shelf).run()
    assert told(finished) == told(whole)
    assert not finished.state.interrupted()


@pytest.mark.parametrize("searcher", ["tpe: {startup: 4}", "forest: {}"])
def test_a_search_that_learns_suggests_the_same_though_workers_are_lost(searcher):
    config = parse_config(CONFIG.replace("tpe: {startup: 4}", searcher))
    whole = FakeRunner(config).run()
    lost = FakeRunner(config, loses=lambda t, start, upto: DIED if start == 1 else None).run()
    assert told(lost) == told(whole)


def test_a_driver_killed_at_any_event_goes_on_from_what_was_kept(undisturbed):
    """Checkpoints may be of before or after the last report in the log."""
    config, total = parse_config(RANDOM), len(undisturbed.log)
    for kill in range(1, total, 4):
        first = FakeRunner(config, breaks_after=kill)
        with pytest.raises(InterruptedError):
            first.run()
        resumed = FakeRunner(config, events=list(first.log), checkpoints=first.checkpoints).run()
        assert told(resumed) == told(undisturbed), f"killed after event {kill} of {total}"


def _poison(trial):
    return trial.layers[0].methods[0].name == "int1"


def _dies(trial, start, upto):
    return DIED if _poison(trial) else None


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_trial_that_always_kills_its_worker_is_given_up(most):
    config = parse_config(RANDOM + f"max_retries: {most}\n")
    runner = FakeRunner(config, loses=_dies).run()
    assert not runner.driver.broken
    failed = [t for t in runner.state.ended if t.record.outcome.failed]
    assert failed
    assert all(_poison(t.trial) for t in failed)
    for trial in failed:
        assert trial.record.outcome.status is Status.FAILED
        assert trial.starts == most + 1
        assert f"worker lost {most + 1} times" in trial.record.outcome.error
        assert DIED.error in trial.record.outcome.error
    others = [t for t in runner.state.ended if not _poison(t.trial)]
    assert others
    assert all(t.starts == 1 for t in others)
    optuna = runner.search._optuna.trials
    searched = [t for t in failed if t.number >= 0]
    assert [t.state.name for t in optuna].count("FAIL") == len(searched) > 0


def test_another_suggestion_of_a_trial_that_was_given_up_is_not_run():
    narrow = parse_config(
        "task: digits\ntrials: 9\nepochs: 3\nsearcher: random\nspace:\n"
        "  method: [int1, {rtn: {bits: [4], mode: symmetric, group_size: 0}}]\n"
        "  adapter: [none]\n"
    )
    runner = FakeRunner(narrow, loses=_dies).run()
    given_up = {t.trial_id for t in runner.state.ended if _poison(t.trial)}
    assert given_up
    starts = Counter(e.trial_id for e in runner.log if isinstance(e, Started))
    assert {starts[i] for i in given_up} == {narrow.max_retries + 1}
    assert any(isinstance(e, Answered) and e.trial_id in given_up for e in runner.log)


def test_retries_are_counted_across_kills_of_the_driver():
    config = parse_config(RANDOM)
    whole = FakeRunner(config, loses=_dies).run()
    lost = [i for i, e in enumerate(whole.log) if isinstance(e, Retried)]
    for after in (lost[0] + 1, lost[1] + 1, lost[2] + 1):
        resumed = FakeRunner(config, events=whole.log[:after], loses=_dies).run()
        number = whole.log[lost[0]].number
        assert resumed.state.trials[number].starts == config.max_retries + 1


def test_what_gets_further_each_time_is_never_given_up():
    """A worker that dies after every step that was kept costs time, and no trial."""
    config = parse_config(RANDOM + "scheduler: median\nmax_retries: 1\n")
    deaths: set[tuple[str, int]] = set()

    def loses(trial, start, upto):
        key = (canonical(trial), upto)
        known = key in deaths
        deaths.add(key)
        return None if known else DIED

    runner = FakeRunner(config, loses=loses).run()
    assert not [r for r in runner.state.records if r.outcome.failed]
    assert max(t.starts for t in runner.state.ended) > config.max_retries + 2


def test_machines_that_go_away_are_no_fault_of_the_trial_but_not_for_ever():
    config = parse_config(RANDOM + "max_retries: 0\n")

    def moves(times):
        return lambda trial, start, upto: MOVED if _poison(trial) and start <= times else None

    assert not [
        r for r in FakeRunner(config, loses=moves(20)).run().state.records if r.outcome.failed
    ]
    runner = FakeRunner(config, loses=lambda t, s, u: MOVED if _poison(t) else None).run()
    failed = [t for t in runner.state.ended if t.record.outcome.failed]
    assert failed
    assert {t.starts for t in failed} == {MOST_MOVES + 1}


def test_a_worker_whose_trial_was_handed_on_is_stopped_and_not_listened_to():
    runner = FakeRunner()
    runner.driver.next("t")
    runner.driver.on_lost("t", MOVED)
    assert runner.driver.next("u")["number"] == -4
    before = list(runner.log)
    late = {"outcome": "{}", "reports": "[]", "done": True}
    assert runner.driver.on_result("t", late) is False
    assert list(runner.log) == before


def test_a_shelf_that_refuses_pauses_the_study_and_costs_the_trial_nothing():
    runner = FakeRunner()
    assert runner.driver.next("t")["number"] == -4
    trouble = {"trouble": "cannot write a: No space left on device", "done": True}
    assert runner.driver.on_result("t", trouble) is False
    assert runner.driver.next("u") == "FINISHED"
    assert "No space left" in runner.driver.refused
    trial = runner.state.trials[-4]
    assert (trial.starts, trial.record) == (1, None)
    assert [s.cause for s in trial.setbacks] == [Cause.STORAGE]
    resumed = FakeRunner(events=list(runner.log)).run()
    assert not [r for r in resumed.state.records if r.outcome.failed]
    assert told(resumed) == told(FakeRunner().run())


def test_workers_of_which_none_ever_lives_end_the_study_and_no_trial():
    runner = FakeRunner()
    most = 1 + runner.config.max_retries
    for i in range(most):
        assert not runner.driver.should_stop()
        assert runner.driver.next(f"t{i}") != "FINISHED"
        runner.driver.on_lost(f"t{i}", Loss(Cause.WORKER, "no module of that name"))
    assert runner.driver.broken
    assert "no module of that name" in runner.driver.stopping
    assert not runner.state.records
    assert FakeRunner(events=list(runner.log)).run().state.baseline("dense").record.outcome.sha256


def test_workers_that_cease_to_live_end_a_study_that_had_begun():
    config = parse_config(RANDOM.replace("trials: 12", "trials: 20"))
    seen: list[str] = []

    def loses(trial, start, upto):
        seen.append(canonical(trial))
        return DIED if len(set(seen)) > 5 else None

    runner = FakeRunner(config, loses=loses).run()
    assert runner.driver.broken
    lost = sum(isinstance(e, Retried) for e in runner.log)
    ended = [e for e in runner.log if isinstance(e, Ended) and e.record.outcome.failed]
    assert lost + len(ended) == HOPELESS * (1 + config.max_retries)
    assert not runner.state.interrupted()[0].record


def test_an_old_log_reads_as_it_was_meant():
    line = {"kind": "retried", "number": 3, "trial_id": "ab", "error": "out of memory", "at": 1.0}
    event = decode(json.dumps(line))
    assert event.cause is Cause.MEMORY
    assert decode(encode(event)) == event


def test_a_trial_that_began_again_in_an_old_log_has_its_new_reports(undisturbed):
    """Without checkpoints: every report of the second start is in the place of a first one."""
    number = next(t.number for t in undisturbed.state.ended if len(t.reports) > 3 and t.number >= 0)
    events = list(undisturbed.log)
    mine = [e for e in events if getattr(e, "number", None) == number]
    start = next(e for e in mine if isinstance(e, Started))
    reports = [e for e in mine if isinstance(e, Reported)]
    at = events.index(reports[-1]) + 1
    state = StudyState([*events[:at], start, *reports[:2]])
    assert state.trials[number].reports == [e.report for e in reports[:2]]
    work = StudyState(events[:at]).worked_seconds + reports[1].report.seconds
    assert state.worked_seconds == pytest.approx(work)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            "The actor died.\nThe actor is dead because its worker process has died.",
            "worker",
        ),
        ("The actor died because its node has died. Node Id: ab", "node"),
        ("The actor died.\nthe actor's node was terminated expectedly: SIGTERM", "node"),
        ("The actor ab is unavailable: Socket closed.", "node"),
        ("The actor died.\nthe actor's node was preempted", "node"),
        ("The actor died.\n\tclass_name: T\n\tactor_id: a14391fd\n", "node"),
        ("The actor died.\n\tactor_id: a14391fd\nIts worker process has died.", "worker"),
        ("ModuleNotFoundError: no module of that name", "worker"),
        ("RuntimeError: flash attention is unavailable on this platform", "worker"),
        ("", "worker"),
    ],
)
def test_machines_are_told_from_processes(words, cause):
    loss = loss_of(words, out_of_memory=False)
    assert loss.cause is Cause(cause)
    assert loss.error


def test_the_judge_is_told_what_tune_wrote_of_a_lost_worker(tmp_path):
    """Tune's own way to it leads to a folder that is only filled by its snapshots."""
    lost = []
    judge = SimpleNamespace(on_lost=lambda trial, loss: lost.append((trial, loss)))
    file = tmp_path / "error.txt"
    file.write_text("Failure # 1\nThe actor died because its node has died. Node Id: ab\n")
    JudgeScheduler(judge).on_trial_error(None, SimpleNamespace(trial_id="t", error_file=str(file)))
    file.write_text("Failure # 1\nray.exceptions.OutOfMemoryError: node low on memory\n")
    JudgeScheduler(judge).on_trial_error(None, SimpleNamespace(trial_id="u", error_file=str(file)))
    assert [(trial, loss.cause) for trial, loss in lost] == [("t", Cause.NODE), ("u", Cause.MEMORY)]
    assert "Node Id: ab" in lost[0][1].error
