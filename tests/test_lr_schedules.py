"""The contract of every learning-rate schedule."""

import math

import networks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.lr_schedules import LR_SCHEDULES

ALL = networks.variants(LR_SCHEDULES)


@pytest.mark.parametrize("schedule", ALL, ids=str)
@given(st.floats(0, 1))
def test_factors_stay_between_zero_and_one(schedule, progress):
    assert 0.0 <= schedule.factor(progress) <= 1.0


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_a_schedule_is_a_function_of_progress_alone(schedule):
    there = [schedule.factor(i / 10) for i in range(11)]
    back = [schedule.factor(i / 10) for i in reversed(range(11))]
    assert there == back[::-1]


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_training_takes_place(schedule):
    assert max(schedule.factor(i / 10) for i in range(10)) > 0.5


@given(st.floats(0, 1), st.floats(0, 1))
def test_cosine_falls_from_one_to_its_floor(floor, progress):
    cosine = LR_SCHEDULES.build("cosine", {"floor": floor})
    assert cosine.factor(0.0) == 1.0
    assert cosine.factor(1.0) == pytest.approx(floor)
    assert cosine.factor(0.5) == pytest.approx((1 + floor) / 2)
    later = min(1.0, progress + 0.1)
    assert cosine.factor(later) <= cosine.factor(progress) + 1e-12
    mirrored = cosine.factor(progress) + cosine.factor(1.0 - progress)
    assert math.isclose(mirrored, 1 + floor)


def test_constant_is_constant():
    assert {LR_SCHEDULES.build("constant").factor(i / 7) for i in range(8)} == {1.0}
