"""What searchers are told: the truth, in the order of the log, and of very many trials the best."""

from __future__ import annotations

import numpy as np
import pytest
from fake_runner import CONFIG, FakeRunner
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.trial import TrialState, create_trial

from analysis.fronts import ranks
from study.config import parse_config
from study.events import SEARCH, Ended, Inherited, Suggested
from study.loop.prediction import LEAST, Gains
from study.loop.search import PREDICTION, StudySearch
from study.objectives import final, standing
from study.searchers import SEARCHERS
from study.searchers.grouped import groups
from study.searchers.recall import Recall
from trainables.record import Status

LISTS = "optimizer: [{adam: {lr: [1e-3, 1e-2]}}, {sgd: {lr: 0.1}}]"
# Few enough that models, generations and caps are at work within a dozen trials.
SMALL = {"startup": 8, "population": 3, "history": 10}


def config_of(name, trials=12, **knobs):
    known = SEARCHERS[name].knobs()
    args = {key: value for key, value in SMALL.items() if key in known} | knobs
    text = CONFIG.replace("{tpe: {startup: 4}}", str({name: args}) if args else name)
    if name == "grid":
        text = text.replace("optimizer: [adam, sgd]", LISTS)
    return parse_config(text.replace("trials: 12", f"trials: {trials}"))


def search_of(config, **given):
    runner = FakeRunner(config)
    return StudySearch(
        config.searcher, config.search_space(), runner.driver.plan.aims, config.seed, **given
    )


def asked_in(log):
    """Each suggestion of a log, with the place where it stands."""
    return [(i, e) for i, e in enumerate(log) if isinstance(e, Suggested) and e.role == SEARCH]


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("concurrency", [1, 3])
def test_from_the_log_comes_the_suggestion_of_an_undisturbed_study(name, concurrency):
    config = config_of(name)
    log = list(FakeRunner(config, concurrency=concurrency).run().log)
    asked = asked_in(log)
    assert len(asked) >= 12
    for at, event in asked[::3] + asked[-1:]:
        search = search_of(config)
        search.replay(log[:at])
        assert search.ask(event.number) == event.params


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_replayed_history_is_the_one_that_was_lived(name):
    config = config_of(name)
    runner = FakeRunner(config, concurrency=3).run()
    search = search_of(config)
    search.replay(runner.log)
    for _, event in asked_in(runner.log):
        lived, again = runner.search.told(event.number), search.told(event.number)
        for part in ("state", "params", "distributions", "values", "user_attrs", "system_attrs"):
            assert getattr(lived, part) == getattr(again, part), part


# what is suggested by others


def settings_of(config, count=3):
    drawn = FakeRunner(config.model_copy(update={"seed": 7})).run()
    return [event.params for _, event in asked_in(drawn.log)[:count]]


@pytest.mark.parametrize("name", SEARCHERS)
def test_starts_come_first_and_a_resume_goes_on_in_their_list(name):
    config = config_of(name)
    starts = settings_of(config)
    whole = search_of(config, starts=starts)
    params = [whole.ask(number) for number in range(6)]
    assert params[:3] == starts
    trials = [config.search_space().to_trial(p, 0) for p in params]
    log = [
        Suggested(n, SEARCH, p, t, "id")
        for n, (p, t) in enumerate(zip(params, trials, strict=True))
    ]
    for cut in range(6):
        again = search_of(config, starts=starts)
        again.replay(log[:cut])
        assert [again.ask(number) for number in range(cut, 6)] == params[cut:]


def test_starts_change_nothing_of_what_a_grid_goes_through():
    config = config_of("grid")
    plain, led = search_of(config), search_of(config, starts=settings_of(config, 2))
    assert [led.ask(n) for n in range(12)][2:] == [plain.ask(n) for n in range(10)]


@pytest.mark.parametrize("name", SEARCHERS)
def test_the_searcher_learns_of_what_was_repaired(name):
    config = config_of(name)
    space = config.search_space()

    def repair(params):
        wanted = dict(params, adapter="none")
        return {key: value for key, value in wanted.items() if space.params[key].applies(wanted)}

    search = search_of(config, repair=repair)
    seen = set()
    for number in range(8):
        params = search.ask(number)
        assert params["adapter"] == "none"
        told = search.told(number)
        assert told.params.items() <= params.items()
        assert told.distributions.keys() == told.params.keys()
        seen.add(tuple(params.items()))
    assert len(seen) > 1


def test_what_was_inherited_is_known_with_its_values():
    config = config_of("nsga2")
    other = FakeRunner(config_of("random", trials=5)).run()
    search = search_of(config)
    ended = [t for t in other.state.searched if t.phase == "completed"]
    for number, trial in enumerate(ended):
        search.put(Inherited(number, trial.params, trial.trial_id, trial.record, "other"))
        told = search.told(number)
        assert told.state is TrialState.COMPLETE
        assert told.values[0] == trial.record.outcome.metrics["val"]["accuracy"]
    assert len(ended) >= 3
    search.ask(len(ended))
    # They were a generation of three: what is asked now is bred from them.
    assert search.told(len(ended)).system_attrs["NSGAIISampler:generation"] == 1


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_constraints_are_told_as_optuna_knows_them(name):
    runner = FakeRunner(config_of(name)).run()

    def violations(record):
        return {"ratio": 2.0 - record.outcome.size.ratio}

    search = search_of(runner.config, violations=violations)
    search.replay(runner.log)
    broken = 0
    for trial in runner.state.searched:
        (key, value), *rest = search.told(trial.number).constraints.items()
        assert (key, value, rest) == ("ratio", 2.0 - trial.record.outcome.size.ratio, [])
        broken += value > 0
    assert 0 < broken < len(runner.state.searched)


def test_of_what_failed_no_constraint_is_asked():
    runner = FakeRunner(config_of("tpe"), fails=lambda trial: trial.epochs > 0).run()
    search = search_of(runner.config, violations=lambda record: {"x": record.outcome.size.ratio})
    search.replay(runner.log)
    assert any(t.state is TrialState.FAIL for t in search._optuna.trials)


# what a stopped trial is told


def stopped_and_told(name, told):
    runner = FakeRunner(config_of(name, trials=20, told=told)).run()
    stopped = [t for t in runner.state.searched if t.record.outcome.status is Status.STOPPED]
    assert stopped
    return runner, stopped


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
@pytest.mark.parametrize(("told", "state"), [("pruned", "PRUNED"), ("nothing", "FAIL")])
def test_a_stopped_trial_has_no_values(name, told, state):
    runner, stopped = stopped_and_told(name, told)
    for trial in stopped:
        known = runner.search.told(trial.number)
        assert (known.state.name, known.values, known.user_attrs) == (state, None, {})


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_a_prediction_rests_on_what_had_ended_before_and_says_so(name):
    runner, stopped = stopped_and_told(name, "predicted")
    aims, gains, predicted = runner.driver.plan.aims, [], 0
    for event in runner.log:
        if not isinstance(event, Ended) or event.number < 0:
            continue
        outcome, known = event.record.outcome, runner.search.told(event.number)
        if outcome.status is Status.COMPLETED:
            gains.append([(r.epochs_done, final(aims, outcome)[0] - standing(aims, r, outcome)[0])
                          for r in outcome.curve])  # fmt: skip
        if outcome.status is not Status.STOPPED:
            assert PREDICTION not in known.user_attrs
            continue
        last = outcome.curve[-1]
        at = [gain for curve in gains for epoch, gain in curve if epoch == last.epochs_done]
        if len(at) < LEAST:
            assert known.state is TrialState.PRUNED
            continue
        predicted += 1
        losses = (standing(aims, last, outcome)[0] + np.median(at), final(aims, outcome)[1])
        assert known.values == pytest.approx([-loss for loss in losses])
        assert known.state is TrialState.COMPLETE
        assert known.user_attrs[PREDICTION] == known.values
    assert 0 < predicted <= len(stopped)


def test_nothing_is_predicted_from_too_few():
    runner, stopped = stopped_and_told("tpe", "predicted")
    gains = Gains(runner.driver.plan.aims)
    completed = [t for t in runner.state.searched if t.phase == "completed" and t.trial.epochs]
    for trial in completed[: LEAST - 1]:
        gains.add(trial.record.outcome)
    assert gains.predict(stopped[0].record.outcome) is None
    gains.add(completed[LEAST - 1].record.outcome)
    assert gains.predict(stopped[0].record.outcome) is not None


# of very many trials the best

SCORE = st.integers(0, 5)
TRIAL = st.tuples(SCORE, SCORE, st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.booleans())


def finished(metric, ratio, violation, pruned):
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        values=None if pruned else [metric, ratio],
        system_attrs={"constraints:x": violation},
    )


def recalled(trials, size):
    recall = Recall(size, [-1.0, -1.0])
    for trial in trials:
        recall.add(trial)
    return recall


@given(st.lists(TRIAL, min_size=1, max_size=60), st.integers(10, 30), st.integers(0, 99))
def test_layers_are_recalled_whole_and_in_their_order(points, size, seed):
    trials = [finished(*point) for point in points]
    chosen = recalled(trials, size).choose(seed)
    assert len(chosen) == len({id(t) for t in chosen}) == min(size, len(trials))
    good = [t for t in trials if t.values and t.constraints["x"] <= 0]
    layers = ranks([[-v for v in t.values] for t in good])
    room, ids = size // 2, {id(t) for t in chosen}
    for layer in range(layers.max(initial=-1) + 1):
        members = [t for t, at in zip(good, layers, strict=True) if at == layer]
        room -= len(members)
        if room < 0:
            break
        assert all(id(t) in ids for t in members)


@given(st.lists(TRIAL, min_size=31, max_size=60), st.integers(0, 99))
def test_the_least_broken_come_after_all_that_breaks_nothing(points, seed):
    trials = [
        finished(metric, ratio, 1.0 + i, False) for i, (metric, ratio, *_) in enumerate(points)
    ]
    chosen = recalled(trials, 20).choose(seed)
    assert chosen[:10] == trials[:10]
    mended = [*trials[5:], finished(0, 0, 0.0, False)]
    assert recalled(mended, 20).choose(seed)[0] is mended[-1]


def test_what_is_recalled_of_the_rest_differs_with_the_seed_alone():
    recall = recalled([finished(i, -i % 7, 0.0, False) for i in range(300)], 40)
    first, again, other = recall.choose(1), recall.choose(1), recall.choose(2)
    assert [t.values for t in first] == [t.values for t in again]
    assert [t.values for t in first] != [t.values for t in other]
    rest = [t.values[0] for seed in range(50) for t in recall.choose(seed)[20:]]
    assert min(rest) < 30  # the worst are among them too


def test_what_failed_is_not_recalled():
    recall = recalled([create_trial(state=TrialState.FAIL)], 10)
    assert recall.choose(0) == []


def test_up_to_its_cap_a_history_is_whole():
    def suggested(history):
        runner = FakeRunner(config_of("tpe", trials=16, history=history), concurrency=3).run()
        return [event.params for _, event in asked_in(runner.log)]

    assert suggested(100) == suggested(1000)
    assert suggested(10) != suggested(1000)


@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1, max_size=8))
def test_groups_are_those_of_optuna(kinds):
    wide = FloatDistribution(0, 1)
    trials = [
        create_trial(
            state=TrialState.PRUNED,
            params=dict.fromkeys(k, 0.5),
            distributions=dict.fromkeys(k, wide),
        )
        for k in kinds
    ]
    twin = _SearchSpaceGroup()
    for trial in trials:
        twin.add_distributions(trial.distributions)
    found = groups(trials)
    assert {frozenset(group) for group in found.values()} == set(map(frozenset, twin.search_spaces))
    assert all(name in group for name, group in found.items())
