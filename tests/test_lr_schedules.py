"""The contract of every learning-rate schedule."""

import math

import networks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.lr_schedules import LR_SCHEDULES
from trainables.lr_schedules.base import Warmed
from trainables.lr_schedules.wsd import SHAPES


def edges(registry):
    """Every plugin with each knob at the ends of its valid range."""
    return [
        registry.build(name, {knob_name: end})
        for name in registry
        for knob_name, knob in registry[name].knobs().items()
        if hasattr(knob.valid, "low")
        for end in (knob.valid.low, knob.valid.high)
    ]


ALL = networks.variants(LR_SCHEDULES)
WARMED = [name for name in LR_SCHEDULES if issubclass(LR_SCHEDULES[name], Warmed)]
FALLING = ["cosine", "linear", "polynomial", "exponential", "step", "inverse_sqrt", "wsd"]
FLOORED = ["cosine", "linear", "polynomial", "wsd"]
shares = st.floats(0, 1)
every_schedule = pytest.mark.parametrize("schedule", ALL, ids=str)


@pytest.mark.parametrize("schedule", ALL + edges(LR_SCHEDULES), ids=str)
@given(shares)
def test_factors_stay_between_zero_and_one(schedule, progress):
    assert 0.0 <= schedule.factor(progress) <= 1.0


@every_schedule
def test_a_schedule_is_a_function_of_progress_alone(schedule):
    there = [schedule.factor(i / 10) for i in range(11)]
    back = [schedule.factor(i / 10) for i in reversed(range(11))]
    assert there == back[::-1]


@every_schedule
def test_training_takes_place(schedule):
    assert max(schedule.factor(i / 10) for i in range(10)) > 0.5


@pytest.mark.parametrize("name", WARMED)
@given(st.floats(0.01, 0.9), shares)
def test_a_warmup_is_a_line_up_to_the_schedule_without_one(name, warmup, share):
    cold, warm = LR_SCHEDULES.build(name), LR_SCHEDULES.build(name, {"warmup": warmup})
    assert warm.factor(0.0) == 0.0
    assert warm.factor(warmup) == cold.factor(0.0) == 1.0
    before = share * warmup * (1 - 1e-9)
    assert warm.factor(before) == pytest.approx(before / warmup)
    if name != "step":  # where a drop falls is a matter of the last bit
        after = warm.factor(min(1.0, warmup + share * (1 - warmup)))
        assert after == pytest.approx(cold.factor(share), abs=1e-6)


@pytest.mark.parametrize("name", FALLING)
@given(shares, shares)
def test_it_falls_from_one(name, one, other):
    schedule = LR_SCHEDULES.build(name)
    assert schedule.factor(0.0) == 1.0
    assert schedule.factor(max(one, other)) <= schedule.factor(min(one, other)) + 1e-12


@pytest.mark.parametrize("name", FLOORED)
@given(shares, shares)
def test_it_ends_at_its_floor_and_stays_above(name, floor, progress):
    schedule = LR_SCHEDULES.build(name, {"floor": floor})
    assert schedule.factor(1.0) == pytest.approx(floor)
    assert schedule.factor(progress) >= floor - 1e-12


@given(shares, shares)
def test_cosine_falls_from_one_to_its_floor(floor, progress):
    cosine = LR_SCHEDULES.build("cosine", {"floor": floor})
    assert cosine.factor(0.0) == 1.0
    assert cosine.factor(0.5) == pytest.approx((1 + floor) / 2)
    mirrored = cosine.factor(progress) + cosine.factor(1.0 - progress)
    assert math.isclose(mirrored, 1 + floor)


@given(shares)
def test_constant_is_constant(progress):
    assert LR_SCHEDULES.build("constant").factor(progress) == 1.0


@given(shares, shares)
def test_a_polynomial_of_power_one_is_linear(floor, progress):
    linear = LR_SCHEDULES.build("linear", {"floor": floor})
    polynomial = LR_SCHEDULES.build("polynomial", {"floor": floor, "power": 1.0})
    assert polynomial.factor(progress) == linear.factor(progress)


@given(shares, shares)
def test_an_exponential_of_a_sum_is_the_product(one, other):
    exponential = LR_SCHEDULES.build("exponential", {"end": 0.03})
    assert exponential.factor(1.0) == pytest.approx(0.03)
    product = exponential.factor(one / 2) * exponential.factor(other / 2)
    assert exponential.factor((one + other) / 2) == pytest.approx(product)


@pytest.mark.parametrize("drops", [1, 2, 7])
def test_a_staircase_has_its_steps_and_no_others(drops):
    staircase = LR_SCHEDULES.build("step", {"drops": drops, "by": 0.5})
    seen = [staircase.factor((i + 0.5) / 1000) for i in range(1000)]
    assert sorted(set(seen), reverse=True) == [0.5**i for i in range(drops + 1)]
    assert staircase.factor(1.0) == 0.5**drops


@given(st.floats(0.01, 0.5), shares)
def test_inverse_sqrt_can_be_that_of_the_transformer(warmup, share):
    timescale = warmup / (1 - warmup)
    schedule = LR_SCHEDULES.build("inverse_sqrt", {"warmup": warmup, "timescale": timescale})
    progress = warmup + share * (1 - warmup)
    assert schedule.factor(min(1.0, progress)) == pytest.approx(math.sqrt(warmup / progress))


@pytest.mark.parametrize("shape", SHAPES)
@given(st.floats(0.05, 0.9), shares)
def test_wsd_is_stable_until_it_decays(shape, decay, share):
    schedule = LR_SCHEDULES.build("wsd", {"decay": decay, "shape": shape})
    assert schedule.factor(share * (1 - decay)) == pytest.approx(1.0, abs=1e-6)
    assert schedule.factor(1 - decay / 2) < 1.0
    assert schedule.factor(1.0) == pytest.approx(0.0, abs=1e-7)


@given(shares, shares)
def test_one_cycle_goes_up_then_down(one, other):
    first, last = sorted((one, other))
    schedule = LR_SCHEDULES.build("one_cycle", {"rise": 0.4, "start": 0.1, "end": 0.2})
    ends = [schedule.factor(p) for p in (0.0, 0.4, 1.0)]
    assert ends == pytest.approx([0.1, 1.0, 0.2])
    assert schedule.factor(0.4 * first) <= schedule.factor(0.4 * last) + 1e-12
    assert schedule.factor(0.4 + 0.6 * last) <= schedule.factor(0.4 + 0.6 * first) + 1e-12


@given(st.integers(1, 9), shares)
def test_jagged_is_the_cosine_but_for_the_warmup_of_each_cycle(cycles, share):
    settings = {"cycles": cycles, "warmup": 0.25}
    jagged, cosine = LR_SCHEDULES.build("cosine_restarts", settings), LR_SCHEDULES.build("cosine")
    for cycle in range(cycles):
        assert jagged.factor((cycle + 1e-9) / cycles) < 1e-6
        settled = min(1.0, (cycle + 0.26 + 0.73 * share) / cycles)
        assert jagged.factor(settled) == pytest.approx(cosine.factor(settled))
        warming = (cycle + 0.25 * share) / cycles
        assert jagged.factor(warming) <= cosine.factor(warming)


@given(st.integers(1, 9), st.floats(0, 0.5), st.floats(0.01, 0.99))
def test_restarts_repeat_one_cycle(cycles, warmup, share):
    settings = {"warmup": warmup, "cosine_of": "cycle"}
    once = LR_SCHEDULES.build("cosine_restarts", {**settings, "cycles": 1})
    often = LR_SCHEDULES.build("cosine_restarts", {**settings, "cycles": cycles})
    assert once.factor(warmup) == pytest.approx(1.0)
    for cycle in range(cycles):
        there = often.factor((cycle + share) / cycles)
        assert there == pytest.approx(once.factor(share), abs=1e-6)


def test_one_cycle_of_a_cosine_without_a_warmup_is_the_cosine():
    settings = {"cycles": 1, "warmup": 0.0}
    cosine = LR_SCHEDULES.build("cosine")
    for of in ("training", "cycle"):
        restarts = LR_SCHEDULES.build("cosine_restarts", {**settings, "cosine_of": of})
        assert all(restarts.factor(i / 7) == cosine.factor(i / 7) for i in range(8))
