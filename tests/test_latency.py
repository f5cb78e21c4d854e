"""Latency: how it is timed, which forms of a space are, and what a trial's is taken to be."""

from __future__ import annotations

import math
import time

import pytest
from fake_runner import FakeRunner
from hypothesis import given
from hypothesis import strategies as st

from study import latency
from study.config import parse_config
from study.events import BASELINES, SEARCH
from study.latency import FILE, Table, form, forms, measured, rests, some
from study.signals import Interrupts
from study.store.storage import Storage
from trainables.latency import FEWEST, Latency, model_latency, timed, trial_latency
from trainables.record import NONE, Choice, LayerRule, Status, Trial
from trainables.tasks import Digits

CONFIG = """
task: digits
constraints: [latency_ms <= 5]
space:
  method: [{rtn: {bits: [2, 4], mode: symmetric, group_size: 0}}, {int1: {scale: row, passes: 1}}]
  adapter: [none, lora]
  init: [zeros, residual]
  rank: [1, 4]
  batch_size: [32, 64]
"""
LORA = Choice("lora")


def _of(ms):
    return Latency(ms, ms, ms, 9)


def _rule(bits, adapter=NONE, rank=0, pattern="*", **more):
    return LayerRule((Choice("rtn", {"bits": bits}),), adapter=adapter, rank=rank, pattern=pattern)


def _trial(*rules):
    return Trial(Choice("digits"), rules)


def test_the_median_is_no_shorter_than_what_is_run():
    found = timed(lambda: time.sleep(0.002), seconds=0.01)
    assert found.low_ms <= found.median_ms <= found.high_ms
    assert found.median_ms >= 2
    assert found.repeats >= FEWEST


def test_a_file_is_timed_as_it_ships():
    task = Digits()
    data = task.prepare(0)
    before = {name: tensor.clone() for name, tensor in data.model.state_dict().items()}
    assert model_latency(task, data.model, data.validation).median_ms > 0
    assert trial_latency(task, data, _trial(_rule(4, LORA, 2))).median_ms > 0
    assert all(tensor.equal(before[name]) for name, tensor in data.model.state_dict().items())


def test_forms_are_all_of_method_adapter_and_rank():
    found = forms(parse_config(CONFIG).search_space())
    assert len(found) == len(set(found)) == 9  # three methods; without an adapter, rank 1 and 4
    assert all(rule == form(rule) for rule in found)
    assert {rule.rank for rule in found} == {0, 1, 4}


def test_ranges_are_timed_at_their_ends():
    text = CONFIG.replace("rank: [1, 4]", "rank: {low: 1, high: 9}")
    assert {rule.rank for rule in forms(parse_config(text).search_space())} == {0, 1, 9}


@given(st.integers(1, 40))
def test_some_are_one_of_each_kind_first(most):
    everything = [_rule(bits, LORA, rank) for bits in (2, 4, 8) for rank in range(1, 9)]
    everything += [_rule(bits) for bits in (2, 4, 8)]
    found = some(everything, most)
    assert len(found) <= most
    assert len(found) == len(set(found))
    assert set(found) <= set(everything)
    if most >= 2:
        assert {rule.adapter for rule in found} == {LORA, NONE}
    if most >= len(everything):
        assert set(found) == set(everything)


def test_a_form_that_was_timed_has_its_time_whatever_starts_it():
    table = Table(_of(1.0), {_rule(4, LORA, 2): _of(3.0), _rule(4): _of(2.0)})
    rule = LayerRule((Choice("rtn", {"bits": 4}),), Choice("residual"), LORA, 2, alpha=8.0)
    assert table.of(_trial(rule)) == 3.0
    assert table.of(_trial(_rule(4))) == 2.0
    assert table.of(_trial(LayerRule((NONE,)))) == 1.0


def test_another_has_that_of_the_nearest_of_its_kind():
    rows = {_rule(4, LORA, rank): _of(float(rank)) for rank in (1, 8)} | {_rule(2): _of(0.5)}
    table = Table(_of(0.1), rows)
    assert table.of(_trial(_rule(4, LORA, 2))) == 1.0
    assert table.of(_trial(_rule(4, LORA, 4))) == 8.0
    assert table.of(_trial(_rule(8, LORA, 8))) == 8.0
    assert table.of(_trial(_rule(8))) == 0.5
    assert table.of(_trial(_rule(4, Choice("dora"), 2))) is None
    assert table.of(_trial(LayerRule((Choice("int1"),)))) is None
    assert Table().of(_trial(_rule(2))) is None


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=5), st.floats(0.1, 10))
def test_what_several_rules_add_is_added(times, dense):
    rules = [_rule(4, pattern=f"layer{i}") for i in range(len(times))]
    table = Table(_of(dense), {rule: _of(ms) for rule, ms in zip(rules, times, strict=True)})
    assert table.of(_trial(*rules)) == pytest.approx(dense + sum(ms - dense for ms in times))
    assert table.of(_trial(rules[0])) == pytest.approx(times[0])


def test_what_is_done_to_the_rest_takes_time_too():
    cast = Choice("cast")
    table = Table(_of(1.0), {_rule(4): _of(2.0)}, {cast: _of(1.5)})
    assert table.of(Trial(Choice("digits"), (_rule(4),), rest=cast)) == 2.5
    assert table.of(Trial(Choice("digits"), (LayerRule((NONE,)),), rest=cast)) == 1.5
    assert table.of(_trial(_rule(4))) == 2.0
    unknown = Choice("cast", {"dtype": "bfloat16"})
    assert table.of(Trial(Choice("digits"), (_rule(4),), rest=unknown)) is None
    space = parse_config(CONFIG + "  rest: [none, cast]\n").search_space()
    assert cast in rests(space)
    assert NONE not in rests(space)
    assert not rests(parse_config(CONFIG).search_space())


def test_a_trial_that_cannot_be_timed_fails_at_its_first_report():
    text = (
        "task: digits\ntrials: 6\nepochs: 9\nsearcher: random\nconstraints: [latency_ms <= 5]\n"
        "space: {method: [{rtn: {bits: [2, 3, 4]}}, int1], adapter: [none, lora]}\n"
    )

    def latency_of(trial):
        return 1.0 if trial.layers[0].methods[0].name == "rtn" else None

    runner = FakeRunner(parse_config(text), latency=latency_of).run()
    found = [t for t in runner.state.ended if t.role == SEARCH]
    lost = [t for t in found if latency_of(t.trial) is None]
    assert lost
    assert lost != found
    for trial in found:
        failed = trial.record.outcome.status is Status.FAILED
        assert failed == (trial in lost)
        assert ("could be timed" in (trial.record.outcome.error or "")) == failed
    assert {t.role for t in runner.state.ended} == {SEARCH, *BASELINES}
    assert all(len(t.reports) < 10 for t in lost)
    resumed = FakeRunner(runner.config, events=list(runner.log), latency=latency_of).run()
    assert len(resumed.log) == len(runner.log) + 1


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Everything but the clock: each form that is timed is noted."""
    config, noted, said = parse_config(CONFIG), [], []

    def time_it(task, data, trial):
        noted.append(trial.layers[0])
        if len(noted) == stop_at[0]:
            interrupts._handle(15, None)
        return _of(float(len(noted)))

    stop_at, interrupts = [math.inf], Interrupts()
    monkeypatch.setattr(latency, "trial_latency", time_it)
    data, storage = config.task.prepare(0), Storage.open(tmp_path)

    def measure(config=config, stop=math.inf, over=lambda: False):
        stop_at[0], interrupts.caught = stop, None
        space = config.search_space()
        return measured(config, space, data, storage, said.append, interrupts, over)

    return measure, noted, said, storage


def test_a_table_is_made_once(world):
    measure, noted, said, storage = world
    table = measure()
    assert set(table.rows) == set(noted)
    assert len(noted) == 9
    assert any("timed 9 forms" in text for text in said)
    assert measure() == table
    assert len(noted) == 9


def test_an_interrupted_table_goes_on_where_it_stopped(world):
    measure, noted, _, _ = world
    assert len(measure(stop=4).rows) == 3
    table = measure()
    assert len(table.rows) == 9
    assert len(noted) == 4 + 6  # the one that was interrupted is timed again


def test_a_spent_budget_ends_the_timing(world):
    measure, noted, said, _ = world
    assert len(measure(over=lambda: len(noted) >= 4).rows) == 4
    assert any("the time budget is spent: 5 forms are not timed" in text for text in said)
    with_rest = parse_config(CONFIG + "  rest: [none, cast]\n")
    table = measure(with_rest)
    assert (len(table.rows), len(table.rests)) == (9, len(rests(with_rest.search_space())))
    assert table.rests
    assert measure(with_rest) == table


def test_nothing_is_timed_that_nobody_asked_for(world):
    measure, noted, _, storage = world
    plain = parse_config(CONFIG.replace("latency_ms <= 5", "ratio >= 2"))
    assert measure(plain) == Table()
    assert not noted
    assert not storage.exists(FILE)
    assert latency.is_wanted(
        parse_config(CONFIG.replace("constraints: [latency_ms <= 5]",
                                    "objectives: [accuracy, ratio, latency_ms]"))
    )  # fmt: skip
