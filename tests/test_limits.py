"""Budgets of time, accelerators, money and patience: when a search is over, and why."""

from __future__ import annotations

import math

import pytest
from fake_runner import CONFIG, FakeRunner
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.fronts import hypervolume
from compression.registry import InvalidSetting, errors_of
from study.config import make_config, parse_config
from study.events import SEARCH
from study.fields.amounts import parse_bytes, parse_percent, parse_price
from study.fields.sections import Patience
from study.growth import Growth
from study.loop.limits import Limits, budget_remarks, limits
from study.objectives import aims, final
from study.state import StudyState

SHORT = CONFIG.replace("trials: 12", "trials: 8")
GOALS = aims(parse_config(SHORT).task)


@pytest.fixture(scope="module")
def undisturbed():
    return FakeRunner(parse_config(SHORT)).run()


def _config(text):
    return parse_config(SHORT + text)


@given(st.floats(0, 1))
def test_a_percentage_is_a_hundredth(share):
    assert parse_percent(share) == share
    assert parse_percent(f"{100 * share:f}%") == pytest.approx(share, abs=1e-8)


@pytest.mark.parametrize(
    ("text", "count"),
    [("5000000", 5e6), ("5 MB", 5e6), ("1.5MiB", 1.5 * 2**20), ("200 kB", 2e5), ("1e3 B", 1e3)],
)
def test_bytes_have_the_units_that_people_write(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (parse_bytes, "5 mb"),
        (parse_bytes, "-5 MB"),
        (parse_bytes, "MB"),
        (parse_percent, "101%"),
        (parse_percent, "1 pp"),
        (parse_price, "3 EUR"),
        (parse_price, 0),
        (parse_price, math.inf),
        (parse_price, True),
    ],
)
def test_other_amounts_are_refused_with_what_was_expected(parse, value):
    with pytest.raises(ValueError, match="expected"):
        parse(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("money_budget: 20", "config:13: money_budget: money is counted by the hour"),
        ("accelerator_budget: 2h\nresources: {gpus: 0}", "accelerator_budget: trials get no GPU"),
        ("accelerator_budget: soon", "accelerator_budget: expected a time above 0"),
        ("patience: {trials: 0}", "patience.trials: expected a number greater than 0"),
        ("patience: {gain: 3}", "patience.gain: expected a share from 0 to 1"),
        ("patience: {gian: 1%}", "unknown key 'gian'; did you mean 'gain'?"),
    ],
)
def test_budgets_that_cannot_be_counted_are_refused_with_their_line(text, said):
    (error,) = errors_of(lambda: _config(text))
    assert said in error


def test_a_config_with_every_budget_is_the_same_read_back():
    config = _config(
        "time_budget: 30m\naccelerator_budget: 2h\nmoney_budget: 20\nprice_per_hour: 1.2\n"
        "patience: {trials: 5, gain: 2%}\n"
    )
    again = make_config(config.to_json())
    assert again.to_json() == config.to_json()
    assert (again.accelerator_budget, again.patience) == (7200, Patience(trials=5, gain="2%"))


@given(seconds=st.floats(0, 100), budget=st.floats(1, 100), share=st.floats(0, 0.9))
@example(seconds=57.5, budget=57.5, share=0.0)
def test_a_search_leaves_its_share_to_what_confirms_it(seconds, budget, share):
    state = StudyState()
    for bound in (Limits(budget, share), Limits(share=share, money=budget, price_per_hour=3600)):
        searching = bound.over(state, seconds, searching=True)
        confirming = bound.over(state, seconds, searching=False)
        assert bound.seconds == pytest.approx(budget)  # money buys them, up to rounding
        for over, limit in ((searching, (1 - share) * budget), (confirming, budget)):
            if seconds != pytest.approx(limit, rel=1e-9):
                assert (over is not None) == (seconds >= limit)


def test_trials_count_what_they_say_they_took(undisturbed):
    worked = sum(t.record.outcome.seconds for t in undisturbed.state.ended)
    assert undisturbed.state.worked_seconds == pytest.approx(worked)
    assert worked > 0


def test_gpu_seconds_end_the_whole_study_and_survive_a_resume(undisturbed):
    budget = undisturbed.state.worked_seconds  # of half a GPU: half of it is spent
    config = _config(f"accelerator_budget: {budget / 4:.3f}s\n")
    first = FakeRunner(config, gpus=0.5).run()
    assert first.driver.stopping == "the accelerator budget is spent"
    assert budget / 2 <= first.state.worked_seconds < budget
    resumed = FakeRunner(config, events=list(first.log), gpus=0.5)
    assert resumed.driver.next("t") == "FINISHED"
    assert resumed.state.worked_seconds == first.state.worked_seconds


def test_an_interrupted_start_stays_paid_for(undisturbed):
    total = len(undisturbed.log)
    with pytest.raises(InterruptedError):
        (killed := FakeRunner(parse_config(SHORT), breaks_after=total // 2)).run()
    resumed = FakeRunner(parse_config(SHORT), events=list(killed.log))
    assert resumed.state.worked_seconds == killed.state.worked_seconds > 0
    assert resumed.run().state.worked_seconds >= undisturbed.state.worked_seconds


def test_the_growth_of_the_front_equals_its_slow_twin(undisturbed):
    runner, config = undisturbed, parse_config(SHORT)
    goals, chance = aims(config.task), config.task.chance
    growth, looked = Growth(goals, chance), Growth(goals, chance)
    growth.look(runner.state)
    state = StudyState()
    for event in runner.log:  # looked at after each event: each trial is taken in once
        state.apply(event)
        looked.look(state)
    slow, losses = [], []
    for trial in runner.state.finished:
        if trial.role == SEARCH:
            losses.append(final(goals, trial.record.outcome))
            slow.append(hypervolume(losses, (-chance, 0.0)))
    assert growth.volumes == looked.volumes == pytest.approx(slow)
    assert slow[-1] > slow[0] > 0


def test_what_breaks_a_constraint_is_no_growth(undisturbed):
    config = parse_config(SHORT)
    growth = Growth(aims(config.task), config.task.chance, lambda trial: False)
    growth.look(undisturbed.state)
    assert set(growth.volumes) == {0.0}


@given(
    st.lists(st.floats(0, 2), min_size=1, max_size=12).map(sorted),
    st.integers(1, 6),
    st.floats(0, 1),
)
def test_patience_ends_with_what_did_not_grow(volumes, trials, gain):
    growth = Growth(GOALS, 0.1)
    growth.volumes = volumes
    said = growth.over(Patience(trials=trials, gain=gain))
    if len(volumes) < trials:
        assert said is None
    else:
        before = [0.0, *volumes][-1 - trials]
        grew = volumes[-1] > before * (1 + gain)
        assert (said is None) == (grew or volumes[-1] == 0)


def test_patience_waits_for_the_first_point_of_a_front():
    config = _config("constraints: [accuracy >= 0.9999]\npatience: {trials: 2, gain: 100%}\n")
    runner = FakeRunner(config).run()
    assert runner.driver.searched_enough is None
    assert runner.driver.searched == 8


def test_patience_ends_a_search_at_the_same_trial_after_a_resume():
    config = _config("patience: {trials: 3, gain: 100%}\n")
    first = FakeRunner(config).run()
    assert "in the last 3 trials, by less than 100%" in first.driver.searched_enough
    ran = len([t for t in first.state.finished if t.role == SEARCH])
    assert 3 <= ran < 8
    resumed = FakeRunner(config, events=list(first.log)).run()
    assert len(resumed.log) == len(first.log) + 1  # that it was opened


def test_limits_are_as_the_config_says():
    config = _config("money_budget: 2\nprice_per_hour: 4\ntime_budget: 1h\nconfirm: {share: 0.5}\n")
    found = limits(config, aims(config.task), gpus=2.0)
    assert (found.share, found.gpus, found.seconds) == (0.5, 2.0, 1800)
    assert found.growth is None
    assert not budget_remarks(config)
    (said,) = budget_remarks(_config("price_per_hour: 4\n"))
    assert "without a money_budget" in said
    with pytest.raises(InvalidSetting):
        _config("price_per_hour: free\n")
