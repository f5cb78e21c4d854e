"""The space: what it suggests is a valid trial, and only knobs that mean something exist."""

import json
from dataclasses import replace

import pytest
from examples import SETTINGS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from compression.registry import InvalidSetting, Values
from study.config import load_config, parse_config
from study.loop.search import StudySearch
from study.objectives import aims
from study.run import DEFAULT
from study.searchers import SEARCHERS
from study.space.options import AXES, Option, knobs_of, option_params, option_problems
from trainables.record import Fingerprint, Trial, canonical, from_json, to_json
from trainables.tasks import TASKS

EVERYTHING = """
task: digits
space:
  method: [none, cast, int1, {rtn: {bits: {low: 2, high: 8}, scale_dtype: [float16, float32]}},
           block_sparse, {svd: {rank: [0, 4], energy: {low: 0.2, high: 0.99}}}]
  init: [zeros, residual, pissa, {loftq: {iterations: {low: 1, high: 50, log: true}}}]
  adapter: [none, {lora: {dtype: [float32, float16]}}, dora]
  rank: {low: 1, high: 28, log: true}
  alpha: {low: 0.5, high: 32, log: true}
  optimizer: [adam, adamw, {sgd: {momentum: [0, 0.9], lr: 0.1}}, muon]
  lr_schedule: [constant, {cosine: {floor: [0, 0.1]}}]
  batch_size: [16, 32]
  rest: [none, {cast: {dtype: [float16, bfloat16]}}]
"""
ON = Fingerprint("weights", "data")


class Drawn:
    """Suggestions drawn by hypothesis; remembers what was asked."""

    def __init__(self, data):
        self.data, self.asked = data, {}

    def _draw(self, name, strategy):
        assert name not in self.asked
        self.asked[name] = self.data.draw(strategy, label=name)
        return self.asked[name]

    def suggest_categorical(self, name, choices):
        assert len(choices) > 1
        return self._draw(name, st.sampled_from(choices))

    def suggest_int(self, name, low, high, *, log=False):
        return self._draw(name, st.integers(low, high))

    def suggest_float(self, name, low, high, *, log=False):
        return self._draw(name, st.floats(low, high))


@pytest.fixture(scope="module", params=["shipped", "everything"])
def space(request):
    shipped = request.param == "shipped"
    config = load_config(DEFAULT) if shipped else parse_config(EVERYTHING)
    return config.search_space()


relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@relaxed
@given(data=st.data())
def test_every_suggestion_is_a_valid_trial(space, data):
    params = space.define(Drawn(data))
    trial = space.to_trial(params, seed=3)
    assert trial.seed == 3
    assert from_json(Trial, to_json(trial)) == trial
    assert space.to_trial(dict(reversed(params.items())), 3).trial_id(ON) == trial.trial_id(ON)


@relaxed
@given(data=st.data())
def test_knobs_exist_only_where_they_mean_something(space, data):
    drawn = Drawn(data)
    params = space.define(drawn)
    assert set(drawn.asked) <= set(params)
    plugins = {params[axis] for axis in AXES if axis in params}
    for key in params:
        owner, _, knob = key.removeprefix("rest.").partition(".")
        assert not knob or owner.replace("/", "+") in plugins  # of a chain, svd/rtn.svd.rank
    if params["adapter"] == "none":
        assert not {"init", "rank", "alpha", "optimizer", "batch_size"} & set(params)
        trial = space.to_trial(params, 0)
        assert (trial.epochs, trial.optimizer.name, trial.layers[0].rank) == (0, "none", 0)
    else:
        assert space.to_trial(params, 0).lr == params[f"{params['optimizer']}.lr"]


@relaxed
@given(data=st.data())
def test_different_suggestions_are_different_trials(space, data):
    """No two spellings of one trial, but for defaults that stand beside a default."""
    one, two = space.define(Drawn(data)), space.define(Drawn(data))
    ids = {space.to_trial(p, 0).trial_id(ON) for p in (one, two)}
    assert len(ids) == (1 if one == two else 2)


def with_lists(space):
    """The ends of each range, for searchers that take lists alone."""
    lists = {k: replace(p, domain=Values(p.corners())) for k, p in space.params.items()}
    return replace(space, params=lists)


@pytest.mark.parametrize("name", list(SEARCHERS))
def test_a_sampler_of_the_same_seed_suggests_the_same(name, space):
    searcher = SEARCHERS.build(name, {"startup": 8} if "startup" in SEARCHERS[name].knobs() else {})
    if list(searcher.refusals(space.params)):
        space = with_lists(space)
    goals = aims(parse_config("task: digits").task)

    def run():
        search, found = StudySearch(searcher, space, goals, 7), []
        for number in range(12):
            params = search.ask(number)
            found.append(canonical(space.to_trial(params, 0)))
            values = [float(params["method"] == "rtn"), float(number % 3)]
            search._history.finish(number, TrialState.COMPLETE, values)
        return found

    first = run()
    assert first == run()
    assert len(set(first)) > 8


def test_the_identity_is_that_of_the_space_alone():
    def space(text, **overrides):
        return parse_config(text, overrides=overrides).search_space().to_json()

    assert space(EVERYTHING) == space(EVERYTHING, trials="7", storage="elsewhere", seed="5")
    assert space(EVERYTHING) != space(EVERYTHING, **{"space.rank": "[1]"})
    assert space(EVERYTHING) != space(EVERYTHING, epochs="13")
    # A default that is spelled out is the same space.
    assert space("task: digits") == space("task: {digits: {width: 0}}\nspace: {batch_size: 32}")


def test_what_can_be_only_one_thing_is_not_asked():
    text = "task: digits\nspace: {method: {rtn: {bits: 3}}, adapter: none, rest: none}"
    space = parse_config(text, overrides={"space.method.rtn.mode": "symmetric"}).search_space()
    # group_size is still open: rtn brings its own default choices.
    assert [k for k, p in space.params.items() if len(p.corners()) > 1] == ["rtn.group_size"]
    assert "rank" not in space.params


@pytest.mark.parametrize(
    ("axis", "name"), [(axis, name) for axis, plugins in AXES.items() for name in plugins]
)
def test_contract_every_plugin_can_be_searched_as_it_is(axis, name):
    """Its default domains are valid, alone and together; knobs follow what they depend on."""
    option = Option(name)
    assert option_problems(axis, option) == []
    params, seen = option_params(axis, option), {axis}
    for key, param in params.items():
        assert set(param.when) <= seen
        seen.add(key)
    for knob_name, knob in knobs_of(AXES[axis][name]).items():
        if knob.search is not None:
            corners = getattr(knob.search, "values", None) or (knob.search.low, knob.search.high)
            assert [knob.valid.problem(v) for v in corners] == [None] * len(corners), knob_name


@pytest.mark.parametrize("task", list(TASKS))
def test_contract_every_task_can_be_studied(task, tmp_path):
    small = SETTINGS[task](tmp_path) if task in SETTINGS else {}
    config = parse_config(json.dumps({"task": {task: small}, "space": {"rank": [1]}}))
    assert config.search_space().task.name == task


def test_a_combination_that_the_plugin_refuses_is_an_error_of_the_config():
    text = (
        "task: digits\nspace: {method: {block_sparse: {tile_rows: [1, 4], tile_cols: 2, keep: 4}}}"
    )
    with pytest.raises(InvalidSetting, match="at most the 2 entries"):
        parse_config(text)
