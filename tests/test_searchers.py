"""Every searcher's contract: suggestions are a function of seed, number and history."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from fake_runner import CONFIG, FakeRunner

from compression.registry import InvalidSetting
from study.config import parse_config
from study.loop.search import StudySearch
from study.objectives import aims
from study.plan import plan_lines
from study.searchers import SEARCHERS
from study.space.combinations import combinations, ranges
from study.space.params import corners_of

LISTS = "optimizer: [{adam: {lr: [1e-3, 1e-2]}}, {sgd: {lr: 0.1}}]"
GRID = """
task: digits
trials: 99
epochs: 3
searcher: grid
scheduler: fifo
space:
  method:
    - rtn: {bits: [2, 3], mode: symmetric, group_size: 0}
    - svd: {rank: [3, 0], energy: 0.5}
  adapter: [none, lora]
  init: zeros
  rank: [1, 2]
  optimizer: [{adam: {lr: [1e-3, 1e-2]}}, {sgd: {lr: 0.1, momentum: 0.9}}]
"""
UNSEEDED = ("grid",)  # its order is that of the lists


def _suggested(runner):
    return [t.params for n, t in sorted(runner.state.trials.items()) if n >= 0]


@pytest.fixture(params=SEARCHERS)
def config(request):
    text = CONFIG.replace("{tpe: {startup: 4}}", request.param)
    if request.param == "grid":
        text = text.replace("optimizer: [adam, sgd]", LISTS)
    return parse_config(text)


def test_same_seed_same_study(config):
    assert _suggested(FakeRunner(config).run()) == _suggested(FakeRunner(config).run())


def test_another_seed_another_study(config):
    other = config.model_copy(update={"seed": 1})
    same = _suggested(FakeRunner(config).run()) == _suggested(FakeRunner(other).run())
    assert same == (config.searcher.name in UNSEEDED)


def test_suggestions_are_in_the_space(config):
    space = config.search_space()
    for params in _suggested(FakeRunner(config).run()):
        applies = {k for k, p in space.params.items() if p.applies(params)}
        assert set(params) == applies
        assert all(space.params[k].domain.problem(v) is None for k, v in params.items())


def test_the_next_suggestion_does_not_depend_on_what_was_asked_in_between(config):
    whole = FakeRunner(config).run()
    cut = next(i for i, e in enumerate(whole.log) if getattr(e, "number", -1) == 6)
    again = FakeRunner(config, events=list(whole.log[:cut])).run()
    assert _suggested(again) == _suggested(whole)


# grid


@pytest.fixture(scope="module")
def grid():
    return parse_config(GRID)


def test_a_grid_is_every_combination_once_in_the_order_of_the_lists(grid):
    params = grid.search_space().params
    every = list(corners_of(list(params.items()), {}))
    runner = FakeRunner(grid).run()
    assert _suggested(runner) == every
    assert runner.driver.exhausted
    # 2 of rtn and 2 of svd, each without and with a recovery: 2 ranks x (2 + 1) optimizers.
    assert len(every) == combinations(params) == (2 + 2) * (1 + 2 * 3)
    assert runner.state.counts()["completed"] == len(every)


@pytest.mark.parametrize("concurrency", [2, 3])
def test_a_grid_is_the_same_with_trials_side_by_side(grid, concurrency):
    whole = _suggested(FakeRunner(grid).run())
    assert _suggested(FakeRunner(grid, concurrency=concurrency).run()) == whole


@pytest.mark.parametrize("first", [1, 7, 28])
def test_a_grid_goes_on_where_it_was(grid, first):
    short = FakeRunner(grid.model_copy(update={"trials": first})).run()
    whole = FakeRunner(grid).run()
    assert _suggested(short) == _suggested(whole)[:first]
    again = FakeRunner(grid, events=list(short.log)).run()
    assert _suggested(again) == _suggested(whole)
    assert again.driver.exhausted


def test_trials_that_fail_are_not_tried_again_by_a_grid(grid):
    runner = FakeRunner(grid, fails=lambda trial: bool(trial.epochs)).run()
    assert len(_suggested(runner)) == combinations(grid.search_space().params)


def test_a_grid_refuses_ranges_by_name():
    text = GRID.replace("rank: [1, 2]", "rank: {low: 1, high: 4}").replace("lr: 0.1, ", "")
    with pytest.raises(InvalidSetting) as caught:
        parse_config(text, "g.yaml")
    rank, lr = sorted(caught.value.errors)
    assert rank == (
        "g.yaml:5: searcher: grid: rank is a range, 1 to 4; write a list, such as [1, 2, 3, 4]"
    )
    assert lr.startswith("g.yaml:5: searcher: grid: sgd.lr is a range, ")
    assert "write a list" in lr


def test_the_plan_counts_combinations_where_they_are_finite(grid):
    assert "space, 28 combinations:" in plan_lines(grid)
    config = parse_config(CONFIG)
    assert combinations(config.search_space().params) is None
    assert set(ranges(config.search_space().params)) == {"adam.lr", "sgd.lr"}
    assert "space:" in plan_lines(config)


# quasi_random


def test_quasi_random_spreads_every_knob_evenly_those_under_conditions_too():
    text = CONFIG.replace("{tpe: {startup: 4}}", "quasi_random")
    config = parse_config(text)
    space = config.search_space()
    search = StudySearch(config.searcher, space, aims(config.task), config.seed)
    drawn = [search.ask(number) for number in range(64)]
    for key in ("method", "adapter"):
        counts = Counter(params[key] for params in drawn)
        assert set(counts.values()) == {32}, key  # two values: half each, exactly
    # A knob that only some trials have: its values stand apart as the whole sequence's do.
    low, high = space.params["adam.lr"].domain.low, space.params["adam.lr"].domain.high
    rates = [params["adam.lr"] for params in drawn if "adam.lr" in params]
    places = sorted(math.log(rate / low) / math.log(high / low) for rate in rates)
    cells = Counter(int(64 * place) for place in places)
    assert len(rates) > 5
    assert max(cells.values()) == 1  # no two of 64 points share one of 64 cells


def test_quasi_random_goes_on_in_its_sequence_whatever_was_told_before():
    config = parse_config(CONFIG.replace("{tpe: {startup: 4}}", "quasi_random"))
    space, goals = config.search_space(), aims(config.task)
    first, second = (StudySearch(config.searcher, space, goals, config.seed) for _ in range(2))
    whole = [first.ask(number) for number in range(9)]
    assert [second.ask(100 + number) for number in range(9)] == whole
    assert len({str(params) for params in whole}) == 9
