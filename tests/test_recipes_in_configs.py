"""What a config may ask of recipes, of methods that leave no base, and of alpha."""

from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner

from analysis.columns import setting
from analysis.load import Row
from compression.registry import InvalidSetting
from study.config import make_config
from study.run import main
from study.space.baselines import Typical, baselines
from study.tables import asked
from trainables.record import Choice, Fingerprint, Origin, Outcome, Record, Status

FADING = {
    "task": "digits",
    "epochs": 10,
    "recipe": "progressive",
    "space": {
        "method": ["drop_base"],
        "adapter": ["lora"],
        "init": ["zeros", "residual"],
        "rank": [2, 4],
    },
}


def changed(**space):
    return {**FADING, "space": {**FADING["space"], **space}}


def knobs(**of_progressive):
    return {**FADING, "recipe": {"progressive": of_progressive}}


REFUSED = {
    "neither base nor delta": (
        {**FADING, "recipe": "recover"},
        "zeros starts at nothing.*residual, or recipe progressive",
    ),
    "a structure that fades": (
        changed(method=[["channels", "drop_base"]]),
        "dense model's own layers, and channels",
    ),
    "a scaling of no alpha": (
        changed(adapter=[{"lora": {"scaling": ["alpha"]}}]),
        "adapter: lora.scaling: has no effect without an alpha",
    ),
    "what is found": (
        {"task": "digits", "space": {"method": [{"sign": {"zeros": [0, 5]}}]}},
        "zeros: is found while compressing",
    ),
    "a decay that ends after training": (knobs(end=1.5), "progressive.*end would|after training"),
    "a decay that ends before it": (knobs(end=0.0), "before it has begun"),
    "one of several": (knobs(end=[0.5, 1.5]), "after training"),
    "a layer that does not exist": (knobs(features="blocks.7.*"), r"'blocks\.7\.\*' matches no"),
    "an unknown decay": (knobs(decay="exponential"), "expected one of linear, sine, cosine"),
    "a decay of another recipe": (
        {**FADING, "recipe": {"recover": {"decay": "linear"}}},
        "unknown knob of recover 'decay'",
    ),
    "a teacher without a lesson": (
        knobs(task_weight=1.0, teacher="layer"),
        r"teacher: has no effect.*task_weight < 1",
    ),
    "a base that stays": (changed(method=["drop_base", "rtn"]), "rtn keeps it: use drop_base"),
    "an adapter that is no sum": (changed(adapter=["dora"]), "adapter dora is no sum"),
    "nothing left": (changed(adapter=["none", "lora"]), "none: drop_base leaves nothing"),
    "a rank that saves nothing": (changed(rank=[2, 20]), r"20: .*expected at most 19"),
    "alpha under an init that fixes it": (
        changed(init=["residual"], alpha=[8, 16]),
        "alpha: has no effect under init residual",
    ),
    "an unknown recipe": ({**FADING, "recipe": "progresive"}, "did you mean 'progressive'"),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_what_means_nothing_is_refused_with_the_reason(config, message, tmp_path):
    with pytest.raises(InvalidSetting, match=message):
        make_config(config)
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(config))
    told = CliRunner().invoke(main, ["--config", str(file), "--dry-run"])
    assert told.exit_code == 2
    assert "bad.yaml" in told.output


def test_the_decay_is_in_the_space_under_progressive_only():
    asked = {"decay": ["linear", "sine"], "end": [0.5, 0.8]}
    started = changed(init=["residual", "eora"])
    config = make_config({**started, "recipe": ["recover", {"progressive": asked}]})
    params = config.search_space().params
    for key in ("progressive.decay", "progressive.end"):
        assert params[key].when == {"recipe": ("progressive",)}
    drawn = {"method": "drop_base", "adapter": "lora", "lora.dtype": "float32", "init": "zeros"}
    assert not params["progressive.end"].applies({**drawn, "recipe": "recover"})
    assert params["progressive.end"].applies({**drawn, "recipe": "progressive"})


@pytest.mark.parametrize(
    ("recipe", "least"),
    [
        ("recover", 0),
        ("progressive", 8),
        ({"progressive": {"end": [0.31, 0.55]}}, 6),
        ({"progressive": {"end": 0.7}}, 7),
        (["recover", {"progressive": {"end": 0.5}}], 5),
    ],
)
def test_nothing_is_stopped_before_the_last_base_is_gone(recipe, least):
    config = make_config({**changed(init=["residual"]), "recipe": recipe})
    assert config.search_space().min_fidelity() == least


def test_alpha_exists_where_the_init_leaves_it_open():
    scaled = changed(
        alpha=[8, 16],
        init=["paper", "residual"],
        adapter=[{"lora": {"scaling": ["alpha", "alpha_over_rank"]}}],
    )
    space = make_config(scaled).search_space()
    for key in ("alpha", "lora.scaling"):
        assert space.params[key].unless["init"] == ("residual",)
    keys = list(space.params)
    assert keys.index("init") < keys.index("lora.scaling")
    for init in ("paper", "residual"):
        params = space.define(Typical({"init": init, "lora.scaling": "alpha"}))
        (rule,) = space.to_trial(params, 0).layers
        assert (rule.alpha is not None) is (init == "paper")
        assert rule.adapter == Choice("lora", {"scaling": "alpha"} if init == "paper" else {})


def test_the_dense_baseline_recovers_with_its_base():
    found = baselines(make_config(FADING).search_space(), 0)
    assert found["dense_recovered"].recipe == Choice("recover")
    assert {trial.recipe for trial in found.values()} == {Choice("recover")}


def test_a_config_is_read_back_as_it_was():
    for recipe in ("progressive", ["recover", {"progressive": {"end": [0.5, 0.8]}}]):
        config = make_config({**changed(init=["residual"]), "recipe": recipe})
        again = make_config(config.to_json())
        assert again.search_space() == config.search_space()


def test_a_setting_names_its_recipe_unless_it_is_plain():
    def row(recipe):
        trial = baselines(make_config(FADING).search_space(), 0)["dense_recovered"]
        failed = Outcome(Status.FAILED, error="none: made up")
        origin = Origin(Fingerprint("w", "d"))
        return Row(Record(replace(trial, recipe=recipe), failed, origin), "search", 0)

    assert setting(row(Choice("recover"))) == "none + zeros lora r4"
    sine = Choice("progressive", {"decay": "sine"})
    assert setting(row(sine)) == "none + zeros lora r4; progressive(decay=sine)"
    assert asked(row(sine).record.trial)["recipe"] == "progressive(decay=sine)"
