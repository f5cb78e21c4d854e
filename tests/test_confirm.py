"""Runs with other seeds: who is run again, who leaves, who is on the front in the end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_runner import CONFIG, FakeRunner
from hypothesis import given
from hypothesis import strategies as st

from analysis.fronts import non_dominated
from analysis.stats import mean_interval
from compression.registry import InvalidSetting
from study.config import make_config, parse_config
from study.events import CONFIRM, SEARCH, Ended, Frozen, Started, Suggested, decode, encode
from study.fields.sections import Confirm
from study.keeping.retention import Retention
from study.loop.confirm import Race, freeze, front, is_exact, near, seed_of, wanted
from study.loop.limits import Limits
from study.objectives import aims, final
from study.plan import plan_lines
from study.state import StudyState
from study.store.storage import Storage
from study.verify import unverified
from trainables.record import Status, canonical

MANY = CONFIG.replace("trials: 12", "trials: 24\nscheduler: asha")
RULE = "confirm: {seeds: 5, within: 8pp}\n"
CONFIRMED = parse_config(MANY + RULE)


@pytest.fixture(scope="module")
def goals():
    return aims(CONFIRMED.task)


@pytest.fixture(scope="module")
def runner():
    return FakeRunner(CONFIRMED).run()


@pytest.fixture(scope="module")
def frozen(runner, goals):
    return freeze(runner.state, goals, 1.0, CONFIRMED.confirm, CONFIRMED.seed)


def _by_point(state):
    found = {}
    for trial in state.confirmed:
        found.setdefault(trial.params["of"], []).append(trial)
    return found


def test_runs_again_are_the_points_with_the_seeds_in_turn(runner, goals):
    searched = {t.trial_id: t for t in runner.state.searched}
    again = _by_point(runner.state)
    points = near(runner.state, goals, CONFIRMED.confirm.within)
    assert set(again) == {t.trial_id for t in points if not is_exact(t.trial)}
    assert again
    for of, runs in again.items():
        seeds = [seed_of(CONFIRMED.seed, k) for k in range(1, 1 + len(runs))]
        assert [t.trial.seed for t in runs] == seeds
        for run in runs:
            assert replace(run.trial, seed=CONFIRMED.seed) == searched[of].trial
            assert run.record.outcome.epochs_done == searched[of].record.outcome.epochs_done
    stopped = [t for t in points if t.record.outcome.status is Status.STOPPED]
    assert stopped, "no stopped point was run again: the test says nothing of them"


def test_runs_again_begin_when_the_search_is_over_and_are_no_trials_of_it(runner):
    undisturbed = FakeRunner(parse_config(MANY)).run()
    roles = [e.role for e in runner.log if isinstance(e, Suggested) and e.number >= 0]
    assert roles == sorted(roles, reverse=True)
    assert {SEARCH, CONFIRM} == set(roles)
    for kind in ("completed", "stopped", "answered"):
        assert runner.state.counts()[kind] == undisturbed.state.counts()[kind]
    for one in (runner, undisturbed):
        assert [t.trial_id for t in one.state.searched] == [
            t.trial_id for t in undisturbed.state.searched
        ]


def test_a_round_begins_when_the_one_before_is_over(runner):
    rounds = {seed_of(CONFIRMED.seed, k): k for k in range(1, 5)}
    order = [
        rounds[runner.state.trials[e.number].trial.seed]
        for e in runner.log
        if isinstance(e, Started) and runner.state.trials[e.number].role == CONFIRM
    ]
    assert order == sorted(order)


def test_side_by_side_or_one_by_one_is_the_same(goals):
    # Neither what is suggested nor who is stopped depends on the order of ends.
    text = MANY.replace("scheduler: asha", "scheduler: fifo") + RULE
    config = parse_config(text.replace("searcher: {tpe: {startup: 4}}", "searcher: random"))
    fronts = []
    for concurrency in (1, 3):
        state = FakeRunner(config, concurrency=concurrency).run().state
        assert state.confirmed
        assert not wanted(goals, config.confirm, config.seed, state)
        fronts.append(freeze(state, goals, 1.0, config.confirm, config.seed))
    assert fronts[0] == fronts[1]


def test_a_kill_in_the_middle_changes_nothing_after_resume(runner, frozen, goals):
    total = len(runner.log)
    first = next(
        i for i, e in enumerate(runner.log) if isinstance(e, Suggested) and e.role == CONFIRM
    )
    for kill in np.linspace(first, total - 1, 6, dtype=int):  # what a kill leaves of the log
        resumed = FakeRunner(CONFIRMED, events=list(runner.log)[:kill]).run()
        assert freeze(resumed.state, goals, 1.0, CONFIRMED.confirm, CONFIRMED.seed) == frozen
        assert len(resumed.state.confirmed) == len(runner.state.confirmed)


def test_members_are_the_front_of_means(runner, frozen, goals):
    records = {t.trial_id: t.record for t in runner.state.ended}
    means = {}
    for member in frozen.candidates:
        runs = [final(goals, records[i].outcome) for i in member.replicates]
        means[member] = np.mean(runs, axis=0)
        assert member.mean == pytest.approx(-means[member][0])
        at = mean_interval([-run[0] for run in runs])
        assert (member.low, member.high) == ((at.lower, at.upper) if at else (None, None))
        assert 0.0 <= member.probability <= 1.0
        best = min(runs, key=lambda run: run[0])
        assert final(goals, records[member.trial_id].outcome)[0] == best[0]
        assert member.trial_id in member.replicates
    on_front = non_dominated(list(means.values()))
    assert frozen.members == tuple(m for m, keep in zip(means, on_front, strict=True) if keep)
    assert set(frozen.members) < set(frozen.candidates)
    assert decode(encode(frozen)) == frozen


def test_all_runs_of_members_are_scored_on_test(runner, frozen):
    state = StudyState([*runner.log, frozen])
    baselines, missing = unverified(state)
    assert set(missing) == {
        *baselines.values(),
        *(i for member in frozen.members for i in member.replicates),
    }


def test_without_confirm_the_front_is_that_of_single_runs(goals):
    state = FakeRunner(parse_config(MANY)).run().state
    found = freeze(state, goals, 1.0)
    assert [m.trial_id for m in found.members] == [t.trial_id for t in front(state, goals)]
    assert all(m.replicates == (m.trial_id,) and m.probability is None for m in found.members)


@pytest.mark.parametrize("within", [0.0, 0.01, 0.08, 1.0])
def test_what_is_looked_at_has_its_file(runner, goals, within):
    keeper = Retention(Storage.open("no-such-folder"), StudyState(), goals, within)
    for trial in runner.state.searched:
        keeper.admit(trial.trial_id, final(goals, trial.record.outcome))
    looked_at = {t.trial_id for t in near(runner.state, goals, within)}
    assert looked_at <= set(keeper.kept)
    assert {t.trial_id for t in front(runner.state, goals)} <= looked_at


def test_runs_again_end_where_the_first_did_under_another_scheduler(goals):
    events = list(FakeRunner(parse_config(MANY)).run().log)
    config = parse_config(MANY.replace("scheduler: asha", "scheduler: fifo") + RULE)
    state = FakeRunner(config, events=events).run().state
    ends = {t.trial_id: t.record.outcome.epochs_done for t in state.searched}
    assert any(ends[t.params["of"]] < t.trial.epochs for t in state.confirmed)
    for run in state.confirmed:
        assert run.record.outcome.epochs_done == ends[run.params["of"]]
        assert run.record.outcome.sha256


def test_who_is_run_again_is_worked_out_once_while_nothing_ends():
    runner, asked = FakeRunner(CONFIRMED), []
    confirm = runner.driver.plan.confirm

    def counted(state):
        asked.append((len(state.finished), state.counts()["answered"]))
        return confirm(state)

    runner.driver.plan = replace(runner.driver.plan, confirm=counted, concurrency=3)
    runner.run()
    assert asked
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("asked", ["wider", "constrained"])
def test_a_resume_under_other_rules_looks_only_at_files_that_are_there(goals, asked):
    before = FakeRunner(parse_config(MANY)).run().state
    kept = {t.trial_id for t in near(before, goals, 0.01)}
    text = "constraints: [ratio <= 3]\n" if asked == "constrained" else ""
    config = parse_config(MANY + RULE + text)
    events = list(FakeRunner(parse_config(MANY)).run().log)
    resumed = FakeRunner(config, events=events)
    state, met = resumed.state, resumed.demands.met
    wider = {t.trial_id for t in near(state, goals, 0.08, met)}
    state.gone = {t.trial_id for t in state.searched} - kept
    assert wider & state.gone, "nothing that is asked for is gone: the test says nothing"
    resumed.run()
    assert not {t.params["of"] for t in state.confirmed} & state.gone
    state.apply(freeze(state, goals, 1.0, config.confirm, config.seed, met))
    assert not set(unverified(state)[1]) & state.gone


def test_a_run_that_fails_is_left_out_and_not_repeated(goals):
    bad = seed_of(CONFIRMED.seed, 2)
    runner = FakeRunner(CONFIRMED, fails=lambda trial: trial.seed == bad).run()
    found = freeze(runner.state, goals, 1.0, CONFIRMED.confirm, CONFIRMED.seed)
    failed = {t.trial_id for t in runner.state.confirmed if t.record.outcome.error}
    assert failed
    assert not failed & {i for member in found.candidates for i in member.replicates}
    assert max(len(member.replicates) for member in found.members) == 4


def test_before_a_round_is_over_the_front_is_that_of_what_there_is(runner, goals):
    ends = [i for i, e in enumerate(runner.log) if isinstance(e, Ended)]
    for cut in ends[-6:]:
        state = StudyState(list(runner.log)[: cut + 1])
        found = freeze(state, goals, 1.0, CONFIRMED.confirm, CONFIRMED.seed)
        assert found.members
        assert all(m.trial_id in m.replicates for m in found.candidates)


def test_who_leaves_is_worse_than_a_point_that_stays(runner, goals):
    race = Race(runner.state, goals, CONFIRMED.confirm, CONFIRMED.seed)
    alive, lacking = race.standing
    assert not lacking
    assert not alive.all(), "nobody left: the test says nothing"
    means = np.nanmean(race.losses, axis=1)
    for gone in means[~alive]:
        assert any((gone >= stays).all() for stays in means[alive])


def test_a_share_of_the_time_is_left_for_it():
    limits, state = Limits(time=100.0, share=0.25), StudyState()
    assert limits.over(state, 80.0, searching=True)
    assert not limits.over(state, 80.0, searching=False)
    assert limits.over(state, 100.0, searching=False)


@given(st.integers(0, 2**31 - 1), st.integers(1, 50))
def test_seeds_are_the_studys_own(study, k):
    assert seed_of(study, k) == seed_of(study, k)
    assert 0 <= seed_of(study, k) < 2**31
    assert seed_of(study, k) != seed_of(study, k + 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("confirm: {seeds: 1}", "bad.yaml:2: confirm.seeds: expected a number above or equal to 2"),
        ("confirm: {within: 2}", "confirm.within: expected a fraction from 0 to 1"),
        ("confirm: {share: 1}", "confirm.share: expected less than 1"),
        ("confirm: {repeat: 3}", "confirm.repeat: unknown key 'repeat'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, said):
    with pytest.raises(InvalidSetting) as caught:
        parse_config(f"task: digits\n{text}\n", "bad.yaml")
    (line,) = caught.value.errors
    assert "bad.yaml:2: " in line
    assert said.removeprefix("bad.yaml:2: ").split(" expected a number")[0] in line


def test_a_config_goes_to_json_and_back():
    again = make_config(CONFIRMED.to_json())
    assert again.confirm == CONFIRMED.confirm
    assert again.margin == CONFIRMED.confirm.within
    assert parse_config("task: digits\n").confirm is None


def test_the_plan_says_what_follows():
    (line,) = [text for text in plan_lines(CONFIRMED) if "other seeds" in text]
    assert f"{24 * 4} more runs" in line
    assert not any("other seeds" in text for text in plan_lines(parse_config(MANY)))


def test_a_point_that_trains_is_not_exact(runner):
    for trial in runner.state.searched:
        trains = trial.trial.epochs > 0
        assert is_exact(trial.trial) == (not trains), canonical(trial.trial)


def test_without_a_model_there_is_nothing_to_confirm_and_an_empty_front():
    state, goals, rule = StudyState(), aims(FakeRunner().config.task), Confirm(seeds=3)
    assert wanted(goals, rule, 0, state) == []
    assert freeze(state, goals, 1.0, rule) == Frozen(1.0, ())
