"""Layer-wise spaces: their groups, keys and trials, and that uniform ones are what they were."""

import hashlib
import itertools
import json
import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_space import Drawn

from compression.registry import InvalidSetting, Values
from study.config import make_config, parse_config
from study.layerwise.groups import blocks, each, owned
from study.loop.placement import largest
from study.plan import plan_lines
from study.space.baselines import baselines
from study.space.combinations import combinations
from study.space.params import Param, Trained, corners_of, some_corners_of
from study.space.space import Space
from trainables.record import NONE, Trial, from_json, to_json

AXES = """
task: digits
epochs: 4
space:
  method: [{rtn: {bits: [2, 8], mode: symmetric}}, {svd: {rank: [2, 0], energy: 0.9}}, [n_m, rtn]]
  init: [zeros, eora]
  adapter: [none, lora, {ia3: {}}]
  rank: [1, 4]
  optimizer: [adam, sgd]
  hook: [none, ema]
  batch_size: [16, 32]
  rest: [none, cast]
"""
EACH = AXES + "  layerwise: {groups: each}\n"
ONE = AXES + "  layerwise: {groups: {all: '*'}}\n"
OWN = (
    AXES
    + """  layerwise:
    groups:
      first: {layers: '1', method: {rtn: {bits: 4}}, adapter: none}
      others: {layers: '*', rank: {low: 1, high: 8}}
"""
)


def test_blocks_are_the_layers_up_to_the_first_number():
    names = ["emb", "h.0.attn.q", "h.0.mlp", "h.10.mlp", "h.1.mlp", "layer1.0.conv1", "7"]
    found = blocks(names)
    assert list(found) == ["emb", "h.0", "h.10", "h.1", "layer1.0", "7"]
    assert owned(found, names)["h.0"] == ["h.0.attn.q", "h.0.mlp"]
    assert owned(found, names)["h.1"] == ["h.1.mlp"]


PARTS = st.lists(st.sampled_from(["a", "b[0]", "0", "12"]), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(st.lists(PARTS.map(".".join), unique=True, max_size=8))
def test_every_layer_is_of_one_group(names):
    names = [n for n in names if not any(other.startswith(f"{n}.") for other in names)]  # no layer
    for grouped in (each, blocks):
        found = owned(grouped(names), names)
        assert sorted(itertools.chain(*found.values())) == sorted(names)
        assert all(found.values())


def test_the_first_group_that_matches_has_a_layer():
    found = owned({"a": "*.q, *.k", "b": "*"}, ["x.q", "x.k", "x.v"])
    assert found == {"a": ["x.q", "x.k"], "b": ["x.v"]}


@cache
def as_groups():
    """The same space as a uniform one, and as that of one group."""
    return parse_config(AXES).search_space(), parse_config(ONE).search_space()


@pytest.fixture(scope="module", params=[EACH, OWN], ids=["each", "own"])
def space(request):
    return parse_config(request.param).search_space()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_suggestion_is_a_valid_trial(space, data):
    params = space.define(Drawn(data))
    trial = space.to_trial(params, seed=3)
    assert from_json(Trial, to_json(trial)) == trial
    assert [rule.pattern for rule in trial.layers] == [p for g in space.groups for p in g.patterns]
    trained = any(rule.adapter != NONE for rule in trial.layers)
    assert trained == ("optimizer" in params) == (trial.epochs > 0)
    assert all(re.fullmatch(r"[\w./-]+", key) for key in params)  # as MLflow takes them


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_group_of_all_layers_is_the_uniform_space(data):
    uniform, one = as_groups()
    (group,) = one.groups
    params = one.define(Drawn(data))
    own = one.chosen(group, params)
    flat = {k: v for k, v in params.items() if not k.startswith(group.prefix)} | own
    if flat["adapter"] == "ia3":  # has a range of learning rates of its own
        flat |= {f"ia3.{k}": v for k, v in flat.items() if k == "adam.lr"}
    assert one.to_trial(params, 1) == uniform.to_trial(flat, 1)


def test_what_a_study_asks_of_a_space_is_as_of_the_uniform_one():
    uniform, one = as_groups()
    assert one.needs() == uniform.needs()
    assert one.dense_needs() == uniform.dense_needs()
    assert one.rests() == uniform.rests()
    assert one.min_fidelity() == uniform.min_fidelity()
    assert largest(one, 0).layers == largest(uniform, 0).layers
    roles = baselines(one, 0)
    assert roles["dense"] == baselines(uniform, 0)["dense"]
    assert roles["dense_recovered"].layers == baselines(uniform, 0)["dense_recovered"].layers


def test_the_recovered_baseline_compresses_no_group(space):
    trial = baselines(space, 0)["dense_recovered"]
    assert all(rule.methods == (NONE,) for rule in trial.layers)
    assert any(rule.adapter != NONE for rule in trial.layers)


def test_ranks_end_at_the_largest_of_a_group():
    space = parse_config(EACH, overrides={"space.rank": "[4, 16]"}).search_space()
    ranks = [space.of(group)["rank"].domain for group in space.groups]
    assert ranks == [Values((4, 16)), Values((4, 16)), Values((4,))]  # the last has 10 outputs


def test_a_config_is_the_same_after_json(space):
    for text in (AXES, EACH, OWN):
        config = parse_config(text)
        again = make_config(json.loads(json.dumps(config.to_json())))
        assert again.search_space() == config.search_space()


def test_what_a_uniform_space_says_of_itself_is_as_it_ever_was():
    """The identity of every study that there is hangs on it."""
    space = parse_config(AXES).search_space()
    assert type(space) is Space
    text = json.dumps(space.to_json(), sort_keys=True)
    known = "c2fbe9c8c062dcec86a20e3e42b55e19629cd764df25b4c005e4d4ef4e37da30"
    assert hashlib.sha256(text.encode()).hexdigest() == known


def test_budgets_are_no_part_of_the_identity():
    with_bytes = EACH.replace("each}", "each, max_bytes: 4kB, fill: true, starts: 2}")
    one, other = (parse_config(text).search_space() for text in (EACH, with_bytes))
    assert one.to_json() == other.to_json()
    assert one.to_json() != parse_config(OWN).search_space().to_json()


WRONG = [
    ("groups: every", "space.layerwise.groups: expected each, blocks, or NAME: PATTERN"),
    ("groups: {a: none}", "space.layerwise.groups.a.layers: 'none' has no target layer"),
    ("groups: {a: '*', b: '1'}", "space.layerwise.groups.b.layers: '1' has no target layer"),
    ("groups: {a+b: '*'}", "space.layerwise.groups.a+b: a group's name has letters"),
    ("groups: {a: {layers: '*', rnk: 3}}", "groups.a.rnk: unknown key 'rnk'; did you mean 'rank'"),
    ("groups: {a: {layers: '*', rank: 99}}", "groups.a.rank: 99 is above 28"),
    ("groups: {a: {layers: '*', method: chanels}}", "groups.a.method: unknown method"),
    ("groups: {a: {layers: '*', method: channels}}", "groups.a.method: channels: changes"),
    ("groups: {a: {layers: '*', method: drop_base}}", "groups.a.adapter: none: drop_base leaves"),
    ("groups: {a: {layers: '*', adapter: [{lora: {lr: 0.1}}]}}", "groups.a.adapter: lora.lr: gro"),
    ("fill: true", "space.layerwise.fill: there is nothing to fill without max_bytes"),
    ("max_bytes: 3 apples", "space.layerwise.max_bytes: expected bytes"),
    ("starts: -1", "space.layerwise.starts: "),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_what_is_wrong_is_said_where_it_is(text, expected):
    with pytest.raises(InvalidSetting) as found:
        parse_config(AXES + f"  layerwise:\n    {text}\n")
    assert any(expected in line for line in found.value.errors), found.value.errors


def test_optimizers_of_pairs_are_refused_beside_any_groups_other_adapter():
    text = AXES.replace("[adam, sgd]", "[lora_plus]").replace("[none, lora, {ia3: {}}]", "lora")
    groups = "{a: {layers: '1', adapter: ia3}, b: '*'}"
    parse_config(text + "  layerwise: {groups: {a: '1', b: '*'}}\n")
    with pytest.raises(InvalidSetting, match="factors A and B"):
        parse_config(text + f"  layerwise: {{groups: {groups}}}\n")


DOMAINS = st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True).map(tuple).map(Values)


@given(st.data())
def test_combinations_are_as_many_as_there_are(data):
    """Against all of them, one by one; in groups, as layer-wise spaces have them."""
    params = {}
    count = data.draw(st.integers(1, 3))
    names = [f"g{i}/adapter" for i in range(count)]
    for name in names:
        params[name] = Param(
            Values(data.draw(st.sampled_from([("none", "a"), ("none", "a", "b")])))
        )
        params[f"{name}.x"] = Param(data.draw(DOMAINS), {name: ("a",)})
        params[f"{name}.y"] = Param(data.draw(DOMAINS), {}, {name: ("none",)})
    params["optimizer"] = Trained(data.draw(DOMAINS), adapters=tuple(names))
    assert combinations(params) == sum(1 for _ in corners_of(list(params.items()), {}))


def test_the_plan_shows_groups_that_are_alike_together():
    lines = plan_lines(parse_config(EACH))
    assert "  1, 3, 5:" in lines  # the ranks 1 and 4 suit all three
    assert sum("rtn.bits: 2, 8" in line for line in lines) == 1
    assert "  batch_size: 16, 32  when a group has an adapter" in lines
    assert not any("when a group" in line for line in plan_lines(parse_config(AXES)))


def test_combinations_of_many_groups_are_counted_at_once():
    (group, *_) = (space := as_groups()[1]).groups
    own = space.of(group)
    many = {
        f"g{i}/{key}": Param(p.domain, {f"g{i}/{other}": v for other, v in p.when.items()})
        for i in range(30)
        for key, p in own.items()
    }
    alone = sum(1 for _ in corners_of(list(own.items()), {}))
    assert combinations(many) == alone**30


def test_some_combinations_have_every_value_about_equally_often():
    params = {
        "a": Param(Values(("x", "y"))),
        "b": Param(Values(tuple(range(40))), when={"a": ("x",)}),
        "c": Param(Values(tuple(range(7)))),
    }
    found = list(some_corners_of(list(params.items()), 70))
    assert len(found) == len({tuple(one.items()) for one in found}) <= 70
    every = [tuple(one.items()) for one in corners_of(list(params.items()), {})]
    assert {tuple(one.items()) for one in found} <= set(every)
    of_x = [one for one in found if one["a"] == "x"]
    assert len(of_x) == 35
    assert {one["c"] for one in of_x} == set(range(7))
    assert len({one["b"] for one in of_x}) == 35
    assert [one["c"] for one in found if one["a"] == "y"] == list(range(7))
