"""What a study makes of adapters, losses and hooks: their knobs, their rates, what it refuses."""

import pytest
from optuna.trial import FixedTrial

from compression.adapters import ADAPTERS
from compression.registry import FloatRange, InvalidSetting, errors_of
from study.config import make_config
from study.space.baselines import Typical, baselines
from trainables.hooks import HOOKS
from trainables.losses import LOSSES
from trainables.optimizers import OPTIMIZERS
from trainables.record import NONE, Choice

REAL = [name for name in ADAPTERS if name != "none"]


def config(**space):
    plain = {"method": ["rtn"], "adapter": ["lora"], "rank": [2, 4], "optimizer": ["adam"]}
    return make_config({"task": "digits", "space": {**plain, **space}})


def errors(**space):
    with pytest.raises(InvalidSetting) as caught:
        config(**space)
    return list(caught.value.errors)


def drawn(space, **fixed):
    params = space.define(Typical(fixed))
    return params, space.to_trial(params, 0)


@pytest.mark.parametrize("adapter", REAL)
def test_every_adapter_is_searched_in_its_own_range_of_learning_rates(adapter):
    names = ["lora", adapter] if adapter != "lora" else ["lora"]
    if refused := errors_of(lambda: config(adapter=names)):  # it says by name why it cannot be
        assert all(adapter in error for error in refused)
        return
    space = config(adapter=names).search_space()
    params, trial = drawn(space, adapter=adapter)
    factor, own = ADAPTERS[adapter].lr_factor, OPTIMIZERS["adam"].lr
    key = f"{adapter}.adam.lr" if factor != 1 else "adam.lr"
    assert space.params[key].domain == FloatRange(own.low * factor, own.high * factor, log=True)
    assert [k for k in params if k.endswith(".lr")] == [key]
    assert trial.lr == params[key]
    assert ("rank" in params) is ADAPTERS[adapter].ranked
    assert ("init" in params) is ADAPTERS[adapter].takes_delta


def test_a_rate_that_the_user_sets_holds_for_all_adapters_but_one_with_its_own():
    space = config(
        adapter=["lora", "ia3", {"vera": {"lr": 0.3}}], optimizer=[{"adam": {"lr": 0.01}}]
    ).search_space()
    rates = {name: drawn(space, adapter=name)[1].lr for name in ("lora", "ia3", "vera")}
    assert rates == {"lora": 0.01, "ia3": 0.01, "vera": 0.3}


def test_factors_of_rates_are_those_of_steps_that_do_not_grow_with_the_gradients():
    space = config(adapter=["lora", "ia3"], optimizer=["sgd", "adam"]).search_space()
    assert {k for k in space.params if k.endswith(".lr")} == {"sgd.lr", "adam.lr", "ia3.adam.lr"}
    assert "adapter" not in dict(space.params["sgd.lr"].when) or (
        space.params["sgd.lr"].when["adapter"] == ("lora", "ia3")
    )


def test_nothing_is_stopped_before_ranks_and_bytes_have_their_final_form():
    space = config(adapter=["quantized_merge"], method=["magnitude"],
                   hook=[{"gradual_pruning": {"end": 0.55}}]).search_space()  # fmt: skip
    assert space.min_fidelity() == -(-0.55 * space.epochs // 1)


def test_a_loss_without_any_weight_is_refused():
    plain = {"method": ["rtn"], "adapter": ["lora"], "loss": ["label_smoothing"]}
    asked = {"task": "digits", "recipe": {"recover": {"task_weight": 0.0}}, "space": plain}
    (text,) = errors_of(lambda: make_config(asked))
    assert "label_smoothing: has no effect where recover.task_weight is 0" in text


def test_alpha_is_asked_where_an_adapter_has_one():
    space = config(adapter=["none", "lora", "ia3"], alpha=[8, 16], init=["zeros"]).search_space()
    asked = {name: "alpha" in drawn(space, adapter=name)[0] for name in ("none", "lora", "ia3")}
    assert asked == {"none": False, "lora": True, "ia3": False}
    (refused,) = errors(adapter=["ia3"], alpha=[8])
    assert "alpha" in refused


def test_without_an_adapter_nothing_is_trained():
    space = config(adapter=["none", "ia3"]).search_space()
    assert set(drawn(space, adapter="none")[0]) >= {"method", "adapter"}
    trial = drawn(space, adapter="none")[1]
    assert trial.epochs == 0
    assert drawn(space, adapter="ia3")[1].layers[0].rank == 0


def test_the_dense_baseline_is_recovered_by_the_same_adapter():
    found = baselines(config(adapter=["ia3"]).search_space(), 0)["dense_recovered"]
    assert found.layers[0].adapter.name == "ia3"
    assert found.layers[0].methods == (NONE,)


def test_losses_and_hooks_stand_in_the_trial_and_may_be_several():
    space = config(loss=["task", ["label_smoothing", "distil"]]).search_space()
    assert drawn(space, loss="task")[1].losses == ()
    trial = drawn(space, loss="label_smoothing+distil")[1]
    assert [choice.name for choice in trial.losses] == ["label_smoothing", "distil"]
    assert drawn(space)[1].hooks == ()
    assert "label_smoothing/distil.distil.weight" in space.params


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ({"loss": [["task", "distil"]]}, "task: has no effect beside another loss"),
        ({"loss": [["distil"]]}, "a chain needs two or more of the kind loss"),
        ({"loss": ["distill"]}, "did you mean 'distil'"),
        ({"hook": ["none", "nothing"]}, "unknown hook 'nothing'"),
        (
            {"loss": [["label_smoothing", {"distil": {"weight": 1.0}}]]},
            "label_smoothing: has no effect before distil, which has all the weight",
        ),
        ({"adapter": ["ln_tuning"], "hook": ["coto"]}, "ln_tuning has nothing that belongs to"),
        ({"adapter": ["ia3"], "optimizer": ["lora_plus"]}, "lora_plus: treats the factors A and B"),
        ({"adapter": [{"vera": {"rate": 1}}]}, "unknown knob of vera 'rate'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(space, text):
    assert any(text in error for error in errors(**space)), errors(**space)


@pytest.mark.parametrize("axis", ["loss", "hook"])
def test_a_chain_takes_every_pair_that_stands_alone(axis):
    names = [n for n in {"loss": LOSSES, "hook": HOOKS}[axis] if n not in ("task", "none")]
    for one, other in zip(names, names[1:], strict=False):
        asked = {axis: [[one, other]]}
        if refused := errors_of(lambda asked=asked: config(**asked)):
            assert all(one in e or other in e for e in refused)
            continue
        trial = drawn(config(**asked).search_space())[1]
        found = trial.losses if axis == "loss" else trial.hooks
        assert [choice.name for choice in found] == [one, other]


def test_optuna_is_asked_the_same():
    space = config(adapter=["ia3", "lora"], loss=["task", "distil"]).search_space()
    fixed = {
        "adapter": "ia3", "ia3.adam.lr": 0.01, "loss": "distil",
        "distil.weight": 0.5, "distil.temperature": 2.0, "rtn.bits": 4,
    }  # fmt: skip
    defaults = drawn(space, adapter="ia3")[0]
    trial = space.to_trial(space.define(FixedTrial({**defaults, **fixed})), 0)
    assert trial.losses == (Choice("distil"),)
