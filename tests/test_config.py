"""The config: every error at once, each with its key and place; what is right goes round."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.methods import METHODS
from compression.registry import FloatRange, IntRange, InvalidSetting, Text, Values
from study.config import StudyConfig, load_config, make_config, parse_config
from study.fields.choices import parse_domain
from study.fields.yaml_lines import load
from study.run import DEFAULT
from study.space.baselines import Typical


def errors_of(text: str, **overrides: str) -> tuple[str, ...]:
    with pytest.raises(InvalidSetting) as caught:
        parse_config(text, "bad.yaml", {k.replace("__", "."): v for k, v in overrides.items()})
    return caught.value.errors


def test_the_shipped_config_goes_round():
    config = load_config(DEFAULT)
    again = make_config(config.to_json())
    assert again.to_json() == config.to_json()
    assert again.search_space() == config.search_space()
    assert config.name == "digits"


def test_defaults_are_enough():
    config = parse_config("task: digits", "my study.yaml")
    assert isinstance(config, StudyConfig)
    assert config.name == "my-study"
    assert "svd" in config.search_space().params["method"].corners()


BAD = [
    ("tusk: digits\ntask: digits", "bad.yaml:1: tusk: unknown key 'tusk'; did you mean 'task'?"),
    ("seed: 1", "bad.yaml: task: is missing; expected one of"),
    ("task: digit", "bad.yaml:1: task: unknown task 'digit'; did you mean 'digits'?"),
    ("task: {digits: {with: 3}}", "unknown knob of digits 'with'; did you mean 'width'?"),
    ("task: {digits: {width: -1}}", "bad.yaml:1: task.digits.width: expected an integer from 0"),
    ("task: [digits]", "task: expected the name of a task, or {name: {knob: value}}"),
    ("task: digits\ntrials: 0", "bad.yaml:2: trials: expected a number greater than 0, got 0"),
    ("task: digits\nepochs: -3", "epochs: expected a number greater than 0, got -3"),
    ("task: digits\nepochs: 2.5", "epochs: expected a valid integer, got 2.5"),
    ("task: digits\ntrials: true", "trials: expected a valid integer, got True"),
    ("task: digits\nseed: -1", "seed: expected a number greater than or equal to 0, got -1"),
    ("task: digits\nconcurrency: 0", "concurrency: expected a number of trials above 0, or auto"),
    ("task: digits\ntime_budget: soon", "time_budget: expected a time above 0"),
    ("task: digits\ntime_budget: 0s", "time_budget: expected a time above 0"),
    ("task: digits\nkeep: {margin: 101pp}", "keep.margin: expected a fraction from 0 to 1"),
    ("task: digits\nname: ../x", "name: expected text to match pattern"),
    ("task: digits\nsearcher: tpi", "searcher: unknown searcher 'tpi'; did you mean 'tpe'?"),
    ("task: digits\nscheduler: ashes", "unknown scheduler 'ashes'; did you mean 'asha'?"),
    ("task: digits\nscheduler: {asha: {eta: 1}}", "scheduler.asha.eta: expected a number above 1"),
    ("task: digits\nrecipe: recovery", "unknown recipe 'recovery'; did you mean 'recover'?"),
    ("task: digits\nplugins: [no.py]", "plugins: cannot read plugin file 'no.py'"),
    ("task: digits\nspace: 3", "bad.yaml:2: space: expected a valid dictionary"),
]
BAD_SPACE = [
    ("method: []", "space.method: the list is empty; expected at least one method"),
    ("method: int2", "space.method: unknown method 'int2'; did you mean 'int1'?"),
    ("method: [rtn, rtn]", "rtn: named twice"),
    ("method: {rtn: {bits: []}}", "space.method.rtn.bits: the list is empty"),
    ("method: {rtn: {bits: [2, 9]}}", "rtn.bits: expected an integer from 2 to 8, got 9"),
    ("method: {rtn: {bits: [2, 2]}}", "rtn.bits: a value is given twice"),
    ("method: {rtn: {bits: {low: 4, high: 2}}}", "rtn.bits: low is above high: 4 > 2"),
    ("method: {rtn: {bits: {low: 2}}}", "'high' is missing from the range"),
    ("method: {rtn: {bits: {low: 2, high: 4, lag: 1}}}", "did you mean 'log'?"),
    ("method: {rtn: {mode: {low: 1, high: 2}}}", "takes no range; expected some of symmetric"),
    ("method: {rtn: {bit: 4}}", "unknown knob of rtn 'bit'; did you mean 'bits'?"),
    ("method: {rtn: 4}", "space.method.rtn: expected knobs with their values, got 4"),
    ("method: {int1: {scale: row, group_size: 8}}", "group_size: has no effect here"),
    ("method: {block_sparse: {tile_rows: 1, tile_cols: 2, keep: 3}}", "at most the 2 entries"),
    ("init: [pisa]", "unknown init 'pisa'; did you mean 'pissa'?"),
    ("adapter: lorra", "unknown adapter 'lorra'; did you mean 'lora'?"),
    ("optimizer: adamm", "unknown optimizer 'adamm'; did you mean"),
    ("optimizer: {sgd: {lr: 0}}", "space.optimizer.sgd.lr: expected a number from"),
    ("optimizer: {sgd: {lr: {low: -1, high: 1, log: true}}}", "lr: low: expected a number from"),
    ("rank: []", "space.rank: the list is empty"),
    ("rank: [0]", "space.rank: expected an integer from 1"),
    ("rank: [4, 4096]", "space.rank: 4096 is above 28, the largest rank of any target layer"),
    ("rank: {low: 1, high: 99, log: true}", "space.rank: 99 is above 28"),
    ("batch_size: -32", "space.batch_size: expected an integer from 1"),
    ("rest: svd", "space.rest: svd: only for weights of layers"),
    ("ranks: [1]", "space.ranks: unknown key 'ranks'; did you mean 'rank'?"),
]


@pytest.mark.parametrize(
    ("text", "expected"), BAD + [(f"task: digits\nspace:\n  {t}", e) for t, e in BAD_SPACE]
)
def test_one_error_one_line(text, expected):
    (error,) = errors_of(text)
    assert expected in error
    assert "\n" not in error


def test_all_errors_come_at_once_each_in_its_line():
    text = "\n".join(
        ["task: digits", "space:"] + [f"  {line}" for line in ("method: x", "init: y", "rank: 99")]
    )
    found = errors_of(f"{text}\ntrials: 0\nplugins: [a.py, b.py]")
    lines = sorted(int(e.split(":")[1]) for e in found)
    assert lines == [3, 4, 5, 6, 7, 7]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("task: [digits", "bad.yaml:1: malformed YAML"),
        ("task: digits\n  seed: 1", "bad.yaml:2: malformed YAML"),
        ("task: digits\nseed: 1\ntask: digits", "bad.yaml:3: task: given twice, first in line 1"),
        ("- task", "bad.yaml:1: expected keys with values"),
        ("1: 2", "bad.yaml:1: a key must be a word"),
        ("task: !!python/name:os.system x", "bad.yaml:1: malformed YAML"),
        ("task: \x00", "bad.yaml: malformed YAML"),
        ("a: &a [*a]", "nested too deeply"),
    ],
)
def test_malformed_yaml_names_its_line(text, place):
    (error,) = errors_of(text)
    assert place in error
    assert "\n" not in error


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidSetting, match="nothing.yaml: No such file"):
        load_config(tmp_path / "nothing.yaml")


def test_numbers_are_those_of_yaml_1_2():
    data = load("a: 1e-3\nb: off\nc: 010\nd: 1.5\ne: 7\nf: null", "x").data
    assert data == {"a": 1e-3, "b": "off", "c": "010", "d": 1.5, "e": 7, "f": None}


def test_overrides_are_checked_like_the_file_and_named_as_what_they_are():
    config = parse_config(
        "task: digits\nscheduler: asha",
        overrides={"scheduler.asha.eta": "3", "task.digits.width": "40", "space.rank": "[1, 30]"},
    )
    assert config.scheduler.args() == {"eta": 3.0}
    assert config.space.rank == Values((1, 30))
    assert config.where("space", "rank") == "command line: space.rank"
    assert errors_of("task: digits", trials="0", space__rank="[", seed__x="1") == (
        "command line: space.rank:1: malformed YAML: expected the node content, but found "
        "'<stream end>'",
        "command line: seed: expected a valid integer, got {'x': 1}",
        "command line: trials: expected a number greater than 0, got 0",
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("null", None)]
)
def test_times(text, seconds):
    assert parse_config(f"task: digits\ntime_budget: {text}").time_budget == seconds


@pytest.mark.parametrize(("text", "margin"), [("1pp", 0.01), ("0.02", 0.02), ("0.5 pp", 0.005)])
def test_margins(text, margin):
    config = parse_config(f"task: digits\nkeep: {{margin: {text}}}")
    assert config.keep.margin == pytest.approx(margin)


@given(st.lists(st.integers(0, 100), min_size=1, unique=True))
def test_one_number_has_one_type(values):
    assert parse_domain(values, IntRange(0, 100)) == Values(tuple(values))
    floats = parse_domain(values, FloatRange(0, 100))
    assert isinstance(floats, Values)
    assert all(type(v) is float for v in floats.values)


def test_text_is_fixed_or_listed():
    words = Text("[a-z]+", "a word")
    assert parse_domain("one", words) == Values(("one",))
    assert parse_domain(["one", "two"], words) == Values(("one", "two"))
    for wrong in (words, 1, ["one", "2"], [None], "a\n"):
        with pytest.raises(InvalidSetting, match="expected a word, got"):
            parse_domain(wrong, words)
    for spec in ({"low": "a", "high": "b"}, {}):
        with pytest.raises(InvalidSetting, match="takes no range; expected a word"):
            parse_domain(spec, words)


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.booleans())
def test_ranges(low, high, log):
    spec = {"low": low, "high": high, "log": log}
    if low <= high:
        assert parse_domain(spec, FloatRange(0, 1)) == FloatRange(low, high, log)
    else:
        with pytest.raises(InvalidSetting, match="low is above high"):
            parse_domain(spec, FloatRange(0, 1))


CHAINS = """
task: digits
space:
  method:
    - int1
    - [svd, {rtn: {bits: [4]}}]
    - [n_m, rtn]
  adapter: none
"""


def test_a_list_inside_the_methods_is_a_chain():
    config = parse_config(CHAINS, "c.yaml")
    space = config.search_space()
    assert space.params["method"].domain == Values(("int1", "svd+rtn", "n_m+rtn"))
    assert space.params["svd/rtn.rtn.bits"].domain == Values((4,))
    chosen = space.define(Typical({"method": "svd+rtn"}))
    (rule,) = space.to_trial(chosen, 0).layers
    assert [method.name for method in rule.methods] == ["svd", "rtn"]
    assert rule.methods[1].args.get("bits", 4) == 4
    again = make_config(json.loads(json.dumps(config.to_json())))
    assert again.search_space() == space


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("[[rtn, int1]]", "c.yaml:4: space.method: rtn: leaves nothing in floating point for int1"),
        ("[[rtn, drop_blocks]]", "drop_blocks: looks at all layers together"),
        ("[[svd, gptq]]", "gptq: needs calibration (inputs) and can only stand first"),
        ("[[svd, {rtn: {bit: 4}}]]", "unknown knob of rtn 'bit'; did you mean 'bits'?"),
        ("[[svd]]", "a chain needs two or more of the kind method, got ['svd']"),
        ("[cp]", "cp cannot take"),
        ("[drop_blocks]", "drop_blocks: no stack of equal blocks has all its layers"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(method, message):
    text = f"task: digits\nspace:\n  adapter: none\n  method: {method}\n"
    with pytest.raises(InvalidSetting) as caught:
        parse_config(text, "c.yaml")
    assert message in " ".join(caught.value.errors)


def test_the_dense_model_is_calibrated_for_what_looks_at_it():
    def needs(method):
        space = f"{{method: {method}, init: eora, adapter: lora}}"
        return parse_config(f"task: digits\nspace: {space}\n").search_space().dense_needs()

    pruned = METHODS["loraprune"].needs
    assert "inputs" not in pruned
    assert needs("[[loraprune, gptq]]") == needs("[[loraprune, channels]]") == pruned
    assert needs("[rtn]") == {"inputs"}
    assert needs("[rtn, [loraprune, gptq]]") == {"inputs"} | pruned


def test_calibration_is_asked_for_by_what_is_searched():
    def needs(method, init="zeros", adapter="lora"):
        space = f"{{method: {method}, init: {init}, adapter: {adapter}}}"
        return parse_config(f"task: digits\nspace: {space}\n").search_space().needs()

    assert needs("[rtn, svd]") == frozenset()
    assert needs("[rtn, gptq]") == {"inputs"}
    assert needs("rtn", "[zeros, eora]") == {"inputs"}
    assert needs("rtn", "[zeros, eora]", "none") == frozenset()
    assert "samples" in needs("[chita]")
    assert needs("[[loraprune, gptq]]") == {"inputs"} | METHODS["loraprune"].needs
    with pytest.raises(InvalidSetting, match="calibration.samples"):
        parse_config("task: digits\ncalibration: {samples: 0}\n")


def test_checkpoints_have_an_interval():
    assert parse_config("task: digits\ncheckpoint_seconds: 365d").checkpoint_seconds == 365 * 86400
    with pytest.raises(InvalidSetting) as refused:
        parse_config("task: digits\ncheckpoint_seconds: null", "s.yaml")
    assert list(refused.value.errors) == [
        "s.yaml:2: checkpoint_seconds: expected a time above 0 such as 5s or 1m, got nothing; "
        "365d is never"
    ]
