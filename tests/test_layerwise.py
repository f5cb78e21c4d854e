"""Layer-wise studies: bytes known beforehand, sensitivity, starts and repairs."""

import itertools
import json
import math
import random
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_space import Drawn

from compression.model import as_saved
from compression.registry import InvalidSetting
from study.config import parse_config
from study.errors import StudyError
from study.layerwise import sensitivity as measuring
from study.layerwise.guide import guide
from study.layerwise.repair import Repair, changes, filled, least_bytes
from study.layerwise.settings import Settings, corners, effect, predicted
from study.layerwise.sizes import Sizes
from study.layerwise.starts import best, starts
from study.store.storage import Storage
from trainables.build import build, measure_size
from trainables.calibration import calibrated
from trainables.record import Choice, LayerRule, Trial

MANY = """
task: digits
epochs: 2
space:
  method: [none, {rtn: {bits: {low: 2, high: 8}}}, int1, [{svd: {rank: [2, 4]}}, {rtn: {bits: 4}}]]
  init: [zeros, residual]
  adapter: [none, {lora: {dtype: [float32, float16]}}, dora, vera]
  rank: {low: 1, high: 8}
  rest: [none, cast]
  layerwise: {groups: each}
"""
VALUES = MANY.replace("[none, {rtn", "[magnitude, {svd: {energy: [0.5, 0.9]}}, {rtn")
FEW = """
task: digits
epochs: 2
space:
  method: [{rtn: {bits: [2, 3, 4, 8], mode: symmetric, group_size: 0}}]
  init: [zeros, residual]
  adapter: [none, lora]
  rank: [1, 2]
  optimizer: [{adam: {lr: {low: 0.001, high: 0.01}}}]
  layerwise: {groups: each, max_bytes: 3kB, fill: true, starts: 4}
"""


@cache
def digits():
    task = parse_config(MANY).task
    return task, calibrated(task.prepare(0), 64, 0)


@cache
def space_of(text):
    return parse_config(text).search_space()


@cache
def sizes_of(text):
    return Sizes(space_of(text), *digits())


@cache
def settings_of(text, seed):
    """With losses made up: more bits, less loss, and then some noise."""
    space, draw = space_of(text), random.Random(seed)
    growths = {
        group.name: {
            rules: draw.uniform(0, 2) / (1 + sizes_of(text).tensor_bytes(rules))
            for rules in dict.fromkeys(
                effect(space.group_rules(group, values)) for values in corners(space, group)
            )
        }
        for group in space.groups
    }
    return Settings(space, sizes_of(text), growths)


def file_bytes(space, trial):
    task, data = digits()
    model = build(task, data, trial)
    with as_saved(model):
        return measure_size(model, task, data, trial).file_bytes


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_bytes_are_known_before_the_weights_are(data):
    space = space_of(MANY)
    trial = space.to_trial(space.define(Drawn(data)), 0)
    assert sizes_of(MANY).file_bytes(trial) == file_bytes(space, trial)


@pytest.mark.parametrize("method", [("svd", {"energy": 0.5}), ("magnitude", {})])
def test_bytes_that_follow_from_values_are_those_of_the_group_alone(method):
    space = space_of(VALUES)
    for pattern in ("1", "3"):
        trial = Trial(space.task, (LayerRule((Choice(*method),), pattern=pattern),))
        assert sizes_of(VALUES).file_bytes(trial) == file_bytes(space, trial)


RELAXED = settings(max_examples=12, deadline=None)


@RELAXED
@given(st.data(), st.sampled_from([FEW, MANY]), st.integers(0, 3), st.booleans())
def test_repairs_fit_are_in_the_space_and_stay(data, text, seed, fill):
    space, group_settings = space_of(text), settings_of(text, seed)
    least = least_bytes(group_settings)
    repair = Repair(group_settings, data.draw(st.integers(least, 3 * least)), fill)
    params = space.define(Drawn(data))
    found = repair(params)
    assert sizes_of(text).file_bytes(space.to_trial(found, 0)) <= repair.max_bytes
    assert all(space.params[k].domain.problem(v) is None for k, v in found.items())
    assert list(found) == [k for k, p in space.params.items() if p.applies(found)]
    assert repair(found) == found == repair(params)
    if not fill and sizes_of(text).file_bytes(space.to_trial(params, 0)) <= repair.max_bytes:
        assert found == params


@RELAXED
@given(st.data(), st.integers(0, 3))
def test_what_is_left_is_spent_until_nothing_more_fits(data, seed):
    space, group_settings = space_of(FEW), settings_of(FEW, seed)
    most = 2 * least_bytes(group_settings)
    params = Repair(group_settings, most)(space.define(Drawn(data)))
    before = group_settings.state(params)
    after = filled(group_settings, before, params, most)
    assert predicted(after) <= predicted(before)
    assert [s.kind for s in after.values()] == [s.kind for s in before.values()]
    size = partial(group_settings.flat, beside=params)
    for loss, more, group, setting in changes(group_settings, after, same_kind=True):
        if loss < 0 < more:
            assert group_settings.file_bytes(size({**after, group: setting})) > most


def test_a_budget_below_the_least_is_refused_with_it():
    group_settings = settings_of(FEW, 0)
    least = least_bytes(group_settings)
    Repair(group_settings, least)
    with pytest.raises(InvalidSetting, match=f"below {least:,}, the least"):
        Repair(group_settings, least - 1)
    smallest = min(
        sizes_of(FEW).file_bytes(space_of(FEW).to_trial(group_settings.flat(state, {}), 0))
        for state in every_state(group_settings)
    )
    assert least == smallest


def every_state(group_settings):
    names = list(group_settings.of)
    for chosen in itertools.product(*group_settings.of.values()):
        if len({s.kind for s in chosen}) == 1 and chosen[0].kind[0] == "none":
            yield dict(zip(names, chosen, strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [1.0, 1.2, 1.5, 2.0])
def test_the_best_choice_lies_between_the_best_uniform_one_and_the_best_of_all(seed, factor):
    """The slow twin looks at every combination of settings without adapters."""
    group_settings = settings_of(FEW, seed)
    most = int(least_bytes(group_settings) * factor)
    fitting = [
        state
        for state in every_state(group_settings)
        if group_settings.file_bytes(group_settings.flat(state, {})) <= most
    ]
    uniform = [s for s in fitting if len({setting.values for setting in s.values()}) == 1]
    found = best(group_settings, most, ("none", "zeros"))
    assert group_settings.file_bytes(group_settings.flat(found, {})) <= most
    assert predicted(found) >= min(map(predicted, fitting)) - 1e-12
    assert all(predicted(found) <= predicted(state) + 1e-12 for state in uniform)


def test_starts_are_apart_within_the_budget_and_of_the_space():
    group_settings, params = settings_of(FEW, 1), space_of(FEW).params
    most = 2 * least_bytes(group_settings)
    for budget in (None, most):
        found = starts(group_settings, 5, budget)
        assert 2 <= len({json.dumps(flat) for flat in found}) == len(found) <= 5
        for flat in found:
            assert list(flat) == [k for k, p in params.items() if p.applies(flat)]
            assert budget is None or group_settings.file_bytes(flat) <= budget
    assert starts(group_settings, 0, most) == []


def test_the_ladder_ends_at_the_least():
    group_settings = settings_of(FEW, 2)
    sizes = [group_settings.file_bytes(flat) for flat in starts(group_settings, 6)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == least_bytes(group_settings)


@pytest.fixture(scope="module")
def sensitivity():
    task, data = digits()
    return measuring.measured(space_of(FEW), task, data, 64, 0)


def test_sensitivity_is_what_the_loss_grows_by(sensitivity):
    """Against the model run as a whole, on the same examples."""
    task, data = digits()
    rows = data.train.batch(data.calibration)

    def loss(model):
        with torch.no_grad(), as_saved(model):
            return float(task.loss(task.forward(model, rows.inputs), rows.labels))

    assert sensitivity.dense == pytest.approx(loss(data.model), rel=1e-4)
    for found in sensitivity.growths.values():
        for rules, growth in list(found.items())[:3]:
            model = build(task, data, Trial(space_of(FEW).task, rules))
            assert growth == pytest.approx(loss(model) - sensitivity.dense, abs=1e-4)


def test_a_group_left_dense_costs_nothing():
    task, data = digits()
    space = space_of(FEW.replace("[{rtn:", "[none, {rtn:"))
    found = measuring.measured(space, task, data, 64, 0)
    for group in space.groups:
        none = (LayerRule((Choice("none"),), pattern=group.patterns[0]),)
        assert found.growths[group.name][none] == pytest.approx(0, abs=1e-6)


def test_an_adapter_that_starts_at_zeros_counts_as_what_it_could_recover():
    (group, *_) = (space := space_of(FEW)).groups
    own = {"method": "rtn", "rtn.bits": 2, "adapter": "lora", "rank": 2}
    zeros, residual = (
        effect(space.group_rules(group, {**own, "init": name})) for name in ("zeros", "residual")
    )
    assert zeros == residual
    assert effect(space.group_rules(group, {**own, "adapter": "none"}))[0].adapter.name == "none"


def test_sensitivity_is_measured_once_in_a_study(tmp_path, sensitivity, monkeypatch):
    task, data = digits()
    storage, said = Storage.open(tmp_path), []
    monkeypatch.setattr(measuring, "measured", lambda *parts: sensitivity)
    parts = (space_of(FEW), task, data, 64, 0, storage, said.append)
    first = measuring.sensitivity(*parts)
    monkeypatch.setattr(measuring, "measured", lambda *parts: pytest.fail("measured again"))
    again = measuring.sensitivity(*parts)
    assert (again.dense, again.growths) == (first.dense, first.growths)
    assert len(said) == 1
    assert "3 groups" in said[0]
    storage.write_text(measuring.FILES["growth"], '{"dense": 1}')
    with pytest.raises(StudyError, match="delete it"):
        measuring.sensitivity(*parts)


def test_few_models_are_measured_of_many(monkeypatch):
    task, data = digits()
    monkeypatch.setattr(measuring, "MOST", 15)
    found = measuring.measured(space_of(FEW), task, data, 64, 0)
    assert {len(own) for own in found.growths.values()} == {5}
    group_settings = Settings(space_of(FEW), sizes_of(FEW), found.growths)
    for several in group_settings.of.values():
        assert all(math.isfinite(setting.loss) for setting in several)


def test_a_study_is_given_starts_and_a_repair(tmp_path, monkeypatch, sensitivity):
    task, data = digits()
    monkeypatch.setattr(measuring, "measured", lambda *parts: sensitivity)
    config = parse_config(FEW)
    found = guide(config, space_of(FEW), data, Storage.open(tmp_path), print)
    assert 1 <= len(found.starts) <= 4
    assert all(sizes_of(FEW).file_bytes(space_of(FEW).to_trial(f, 0)) <= 3000 for f in found.starts)
    assert found.repair(found.starts[0]) == found.starts[0]
    uniform = parse_config(FEW.split("  layerwise")[0])
    nothing = guide(uniform, uniform.search_space(), data, Storage.open(tmp_path), print)
    assert (nothing.starts, nothing.repair) == ((), None)
    tight = parse_config(FEW.replace("3kB", "100"))
    with pytest.raises(InvalidSetting, match="the least that this space reaches"):
        guide(tight, space_of(FEW), data, Storage.open(tmp_path / "no"), pytest.fail)
