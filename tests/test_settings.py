"""A trial in words: all that determines its result, with what records leave out."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import synthetic_study as synthetic

from analysis import columns
from analysis.load import Row, StudyData, StudyDataError
from analysis.settings import Defaults, options, told, whole
from analysis.study_info import problems
from study.space.defaults import defaults
from study.space.options import AXES
from trainables.record import NONE, Choice, LayerRule, Record, Trial

KNOWN = Defaults.stated({"defaults": defaults()})
TRIAL = Trial(
    Choice("digits"),
    (LayerRule((Choice("gptq", {"bits": 3}),), Choice("loftq"), Choice("lora"), 4, 8.0),),
    optimizer=Choice("adamw", {"beta1": 0.8}),
    lr_schedule=Choice("cosine"),
    losses=(Choice("task"),),
    rest=Choice("cast"),
    lr=0.0123456789,
    batch_size=48,
    epochs=7,
    seed=11,
)


def test_everything_asked_is_told_with_its_options_at_their_defaults_too():
    said = dict(told(TRIAL, KNOWN))
    assert "bits=3" in str(said["method"])
    for axis, choice in (("method", "gptq"), ("init", "loftq"), ("adapter", "lora")):
        for option in KNOWN.whole(axis, Choice(choice)).args:
            assert f"{option}=" in str(said[axis])
    assert said["optimizer"] == str(KNOWN.whole("optimizer", TRIAL.optimizer))
    assert {"beta1", "beta2", "weight_decay"} == set(KNOWN.whole("optimizer", TRIAL.optimizer).args)
    assert (said["rank"], said["alpha"], said["lr"]) == (4, 8.0, TRIAL.lr)
    assert (said["batch size"], said["epochs"], said["seed"]) == (48, 7, 11)
    assert str(said["lr schedule"]).startswith("cosine(")
    assert str(said["rest"]).startswith("cast")


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.5},
        {"batch_size": 49},
        {"epochs": 8},
        {"seed": 12},
        {"precision": "bfloat16"},
        {"optimizer": Choice("adam")},
        {"lr_schedule": Choice("cosine", {"floor": 0.1})},
        {"recipe": Choice("recover", {"task_weight": 0.5})},
        {"losses": ()},
        {"hooks": (Choice("swa"),)},
        {"rest": NONE},
        {"layers": (replace(TRIAL.layers[0], alpha=None),)},
        {"layers": (replace(TRIAL.layers[0], rank=5),)},
        {"layers": (replace(TRIAL.layers[0], pattern="conv*"),)},
        {"layers": (*TRIAL.layers, LayerRule((Choice("rtn"),), pattern="fc"))},
    ],
)
def test_no_two_trials_have_the_same_words(change):
    other = replace(TRIAL, **change)
    assert whole(other, KNOWN) != whole(TRIAL, KNOWN)
    assert whole(other, Defaults()) != whole(TRIAL, Defaults())


def test_every_field_of_a_trial_was_thought_of():
    assert {f.name for f in fields(Trial)} == {
        *("task", "layers", "recipe", "optimizer", "lr_schedule", "losses", "hooks", "rest"),
        *("lr", "batch_size", "epochs", "seed", "precision"),
    }


@pytest.mark.parametrize("axis", sorted(set(AXES) - {"rest"}))
def test_defaults_are_those_of_the_plugins_and_none_that_has_no_effect(axis):
    for name in AXES[axis]:
        made = AXES[axis][name]()
        plugin = type(made)
        expected = {knob: getattr(made, knob) for knob in plugin.knobs() if made.applies(knob)}
        assert dict(KNOWN.whole(axis, Choice(name)).args) == expected


def test_what_is_read_under_another_option_appears_with_it():
    bare, grouped = Choice("int1", {"scale": "none"}), Choice("int1", {"scale": "group"})
    assert "group_size" not in KNOWN.whole("method", bare).args
    assert "group_size" in KNOWN.whole("method", grouped).args


def study(info, *choices):
    rows = [
        Row(
            Record(
                replace(TRIAL, layers=(LayerRule((one,)),)),
                synthetic.record(TRIAL, synthetic.size(4), 0.9).outcome,
                synthetic.ORIGIN,
            ),
            "search",
            n,
        )
        for n, one in enumerate(choices)
    ]
    return StudyData("s", info, tuple(rows))


SPACE = {
    "space": {
        "params": {
            "method": {"domain": {"values": ["int1", "rtn"]}},
            "rtn.bits": {"domain": {"values": [2, 3, 4]}, "when": {"method": ["rtn"]}},
            "int1.scale": {"domain": {"values": ["none", "row"]}, "when": {"method": ["int1"]}},
            "int1.passes": {
                "domain": {"values": [1, 2]},
                "when": {"method": ["int1"], "int1.scale": ["row"]},
            },
        }
    }
}


def test_a_study_that_does_not_state_defaults_has_those_that_its_space_gives_away():
    asked = [Choice("rtn", {"bits": 2}), Choice("rtn", {"bits": 3}), Choice("rtn")]
    known = study(SPACE, *asked).defaults
    assert known.whole("method", Choice("rtn")).args == {"bits": 4}
    assert known.whole("method", asked[0]).args == {"bits": 2}
    unsure = study(SPACE, Choice("rtn", {"bits": 2}), Choice("rtn")).defaults
    assert unsure.whole("method", Choice("rtn")).args == {}
    ones = study(SPACE, Choice("int1"), Choice("int1", {"scale": "row", "passes": 2})).defaults
    assert ones.whole("method", Choice("int1")).args == {"scale": "none"}
    rows = ones.whole("method", Choice("int1", {"scale": "row"})).args
    assert rows == {"scale": "row", "passes": 1}


def test_what_the_study_states_counts_more_than_its_space():
    stated = {"defaults": {"method": {"rtn": {"bits": {"value": 8}}}}}
    known = study({**SPACE, **stated}, Choice("rtn", {"bits": 2}), Choice("rtn")).defaults
    assert known.whole("method", Choice("rtn")).args == {"bits": 8}


@pytest.mark.parametrize(
    "bad",
    [
        [],
        {"method": 1},
        {"method": {"rtn": []}},
        {"method": {"rtn": {"bits": 4}}},
        {"method": {"rtn": {"bits": {"value": [4]}}}},
        {"method": {"rtn": {"bits": {"value": 4, "when": {"mode": "x"}}}}},
    ],
)
def test_defaults_of_another_form_are_refused(bad):
    assert list(problems({"defaults": bad}))
    with pytest.raises(StudyDataError, match="defaults"):
        _ = study({"defaults": bad}).defaults


def test_a_study_states_the_defaults_and_they_survive_json():
    assert not list(problems({"defaults": json.loads(json.dumps(defaults()))}))
    assert json.loads(json.dumps(defaults())) == defaults()


def test_of_varied_options_all_values_are_said_and_of_others_none():
    asked = [Choice("rtn", {"bits": 2}), Choice("rtn", {"group_size": 32}), Choice("svd")]
    data = study({"defaults": defaults()}, *asked)
    assert data.varied.whole("method", Choice("rtn")).args == {"bits": 4, "group_size": 0}
    assert data.varied.whole("method", asked[0]).args == {"bits": 2, "group_size": 0}
    assert data.varied.whole("method", asked[2]).args == {}
    shown = [columns.setting(row, data.varied) for row in data.rows]
    assert [one.split("; ")[0] for one in shown[:2]] == [
        "rtn(bits=2, group_size=0)",
        "rtn(bits=4, group_size=32)",
    ]


def test_options_tell_methods_apart():
    assert "bits=3" in options(TRIAL, KNOWN).split()
    chained = replace(TRIAL, layers=(LayerRule((Choice("n_m"), Choice("rtn", {"bits": 2}))),))
    assert "rtn.bits=2" in options(chained, KNOWN)
