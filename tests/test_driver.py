"""The study's loop: budgets, duplicates, failures, and resume after a kill at any event."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from fake_runner import CONFIG, FakeRunner, Regretful

from study.config import parse_config
from study.events import BASELINES, SEARCH, Answered, Cause, Ended, Reported, Started, Suggested
from study.loop.driver import Driver
from study.loop.retries import Loss
from study.schedulers import Budget
from study.state import Phase, StudyState
from study.store.storage import Storage
from study.tables import write_parquet
from trainables.record import Status, canonical


@pytest.fixture(scope="module")
def undisturbed():
    return FakeRunner().run()


def _told(runner):
    """Everything that a resumed study must have in common with an undisturbed one."""
    return {
        number: (t.role, canonical(t.trial), t.phase, canonical(t.record) if t.record else None)
        for number, t in runner.state.trials.items()
    }


def test_baselines_run_first_and_every_trial_ends(undisturbed):
    roles = [e.role for e in undisturbed.log if isinstance(e, Suggested)]
    assert tuple(roles[:4]) == BASELINES
    assert set(roles[4:]) == {SEARCH}
    assert not undisturbed.state.interrupted()


def test_the_trial_budget_counts_what_is_run(undisturbed):
    counts = undisturbed.state.counts()
    assert counts["completed"] + counts["stopped"] + counts["failed"] == 12
    answered = [e for e in undisturbed.log if isinstance(e, Answered)]
    assert counts["answered"] == len(answered)


def test_nothing_is_run_twice(undisturbed):
    started = [e.trial_id for e in undisturbed.log if isinstance(e, Started)]
    assert len(started) == len(set(started))


def test_a_stopped_trial_has_reached_a_milestone_and_no_more(undisturbed):
    stopped = [r for r in undisturbed.state.records if r.outcome.status is Status.STOPPED]
    assert stopped, "the scheduler stopped nothing: the test says nothing"
    assert all(r.outcome.epochs_done in undisturbed.milestones for r in stopped)


def test_baselines_are_never_stopped(undisturbed):
    for role in BASELINES:
        record = undisturbed.state.baseline(role).record
        assert record.outcome.status is Status.COMPLETED


def test_a_kill_at_any_event_changes_nothing_after_resume():
    """Of the quickest searcher: a killed study's log is the beginning of an undisturbed one's."""
    config = parse_config(CONFIG.replace("{tpe: {startup: 4}}", "random"))
    whole = FakeRunner(config).run()
    total = len(whole.log)
    for kill in range(1, total):
        resumed = FakeRunner(config, events=whole.log[:kill]).run()
        assert _told(resumed) == _told(whole), f"killed after event {kill} of {total}"


@pytest.mark.parametrize("searcher", ["tpe", "forest"])
def test_a_killed_search_that_learns_goes_on_as_it_would_have(searcher):
    config = parse_config(CONFIG.replace("tpe", searcher))
    whole = FakeRunner(config).run()
    total = len(whole.log)
    for kill in range(7, total, 11):
        first = FakeRunner(config, breaks_after=kill)
        with pytest.raises(InterruptedError):
            first.run()
        resumed = FakeRunner(config, events=list(first.log)).run()
        assert _told(resumed) == _told(whole), f"killed after event {kill} of {total}"


def test_a_finished_study_can_be_extended(undisturbed):
    longer = parse_config(CONFIG.replace("trials: 12", "trials: 15"))
    extended = FakeRunner(longer, events=list(undisturbed.log)).run()
    assert _told(extended) == _told(FakeRunner(longer).run())
    counts = extended.state.counts()
    assert counts["completed"] + counts["stopped"] == 15


def test_duplicates_that_run_at_the_same_time_are_answered_when_the_first_ends():
    config = parse_config(
        "task: digits\ntrials: 4\nepochs: 3\nsearcher: random\nspace:\n"
        "  method: [{rtn: {bits: [2, 3, 4], mode: symmetric, group_size: 0}}]\n"
        "  adapter: [none]\n"
    )
    runner = FakeRunner(config, concurrency=3).run()
    assert runner.driver.exhausted
    assert {t.phase for t in runner.state.trials.values()} <= {Phase.COMPLETED, Phase.ANSWERED}
    ran = [t for t in runner.state.ended if t.role == SEARCH]
    assert len(ran) == len({t.trial_id for t in ran}) <= 3


def test_three_failures_from_one_cause_are_said_loudly():
    runner = FakeRunner(fails=lambda trial: trial.epochs > 0).run()
    (said,) = [text for text in runner.said if "in a row" in text][:1]
    assert "NonFiniteLoss: the loss is nan at step" in said
    failed = [r for r in runner.state.records if r.outcome.status is Status.FAILED]
    assert failed
    assert all(r.outcome.metrics == {} for r in failed)


def test_a_suggestion_that_equals_a_baseline_is_a_result_of_the_search(tmp_path):
    config = parse_config(
        "task: digits\ntrials: 3\nepochs: 3\nsearcher: random\nspace:\n"
        "  method: [{rtn: {bits: [8, 2], mode: symmetric, group_size: 0}}]\n"
        "  adapter: [none]\n"
    )
    runner = FakeRunner(config).run()
    equal = runner.state.baseline("int8").trial_id
    assert equal in {t.trial_id for t in runner.state.searched}
    assert len(runner.state.searched) == 2
    write_parquet(Storage.open(tmp_path), runner.state, "accuracy")
    table = pq.read_table(tmp_path / "records/records.parquet").to_pandas()
    assert sorted(table.role[table.trial_id == equal]) == ["int8", "search"]


def test_a_stop_starts_nothing_more_and_ends_nothing():
    runner = FakeRunner()
    runner.driver.next("t")
    runner.driver.stop("by hand")
    assert runner.driver.should_stop()
    assert runner.driver.next("u") == "FINISHED"
    runner.driver.on_lost("t", Loss(Cause.WORKER, "killed with the study"))
    assert len(runner.state.interrupted()) == 1


def test_a_spent_time_budget_stops():
    runner = FakeRunner(parse_config(CONFIG + "time_budget: 1s\n"))
    runner.driver._began -= 2
    assert runner.driver.should_stop()


def test_what_is_done_before_the_first_trial_is_time_of_the_study():
    runner = FakeRunner(parse_config(CONFIG + "time_budget: 1h\n"))
    early = replace(runner.log[0], at=runner.log[0].at - 1800)
    later = FakeRunner(runner.config, events=[early])  # the killed one did nothing that is known
    assert later.driver.spent_seconds < 1700
    state = StudyState([early])
    rungs = runner.config.scheduler.start(Budget(runner.config.epochs))
    driver = Driver(runner.driver.plan, runner.log, state, runner.search, rungs, {})
    assert 1800 <= driver.spent_seconds < 1900
    assert not driver.should_stop()
    driver = Driver(
        runner.driver.plan, runner.log, StudyState([replace(early, at=early.at - 1800)]),
        runner.search, rungs, {},
    )  # fmt: skip
    assert driver.next("t") == "FINISHED"
    assert driver.stopping == "the time budget is spent"


def test_minimising_is_maximising_the_negated(undisturbed):
    """The same suggestions, stops and records, whichever way the metric is better."""
    config = parse_config(CONFIG)
    runner = FakeRunner(config.model_copy(update={"task": Regretful()})).run()
    assert _told(runner) == _told(undisturbed)
    assert runner.search._optuna.directions != undisturbed.search._optuna.directions
    told = [t.values for t in runner.search._optuna.trials if t.values]
    assert [[-value, ratio] for value, ratio in told] == [
        t.values for t in undisturbed.search._optuna.trials if t.values
    ]
    assert told


def test_what_optuna_is_told_is_true(undisturbed):
    states = {"completed": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
    trials = undisturbed.search._optuna.trials
    searched = [t for n, t in sorted(undisturbed.state.trials.items()) if n >= 0]
    assert len(trials) == len(searched)
    for told, trial in zip(trials, searched, strict=True):
        assert told.state.name == states[trial.record.outcome.status.value]
        assert bool(told.values) == (told.state.name == "COMPLETE")


def test_replayed_and_live_history_are_the_same_to_optuna(undisturbed):
    replayed = FakeRunner(events=list(undisturbed.log))
    live, again = undisturbed.search._optuna.trials, replayed.search._optuna.trials
    assert [(t.state, t.params, t.distributions, t.values) for t in live] == [
        (t.state, t.params, t.distributions, t.values) for t in again
    ]


def test_reports_come_in_order_from_step_0(undisturbed):
    by_number: dict[int, list[int]] = {}
    for event in undisturbed.log:
        if isinstance(event, Reported):
            by_number.setdefault(event.number, []).append(event.report.epochs_done)
    assert all(epochs == list(range(len(epochs))) for epochs in by_number.values())
    assert any(isinstance(e, Ended) for e in undisturbed.log)
