"""Rules onto layers: which layer gets what, what stays, what is refused."""

import copy
import pickle

import pytest
import torch
from networks import (
    SINGLE,
    TARGETS,
    calibration,
    fit,
    generator,
    inputs,
    layer_stats,
    network,
    pattern_for,
    rule,
)
from torch import nn

from compression.adapters import ADAPTERS
from compression.collecting import collect
from compression.kinds import bare
from compression.layers import packed_of
from compression.methods import METHODS, Plan
from compression.methods.none import NoMethod
from compression.model import (
    Rule,
    as_saved,
    compress_model,
    compression_of,
    target_layers,
    trainable,
)
from compression.registry import InvalidSetting


def test_targets_match_full_names_in_model_order():
    model = nn.ModuleDict({"fc": nn.Linear(2, 2), "block": nn.Sequential(nn.Linear(2, 2))})
    assert list(target_layers(model, ["*"])) == ["fc", "block.0"]
    assert list(target_layers(model, ["block.*"])) == ["block.0"]
    assert list(target_layers(model, ["fc"])) == ["fc"]


@pytest.mark.parametrize("method", SINGLE)
def test_targets_of_a_compressed_model_are_those_of_the_dense_one(method):
    made = rule(method, "zeros", "lora", 2, pattern=pattern_for(method))
    model = compress_model(network(), [made], TARGETS, calibration=calibration())
    assert list(target_layers(model, TARGETS)) == list(target_layers(network(), TARGETS))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nope", "'nope' matches no Linear, Conv2d or Embedding; layers: 0, 3"),
        ("1", "1 is a BatchNorm"),
    ],
)
def test_a_target_that_matches_nothing_is_refused(pattern, message):
    with pytest.raises(InvalidSetting, match=message):
        target_layers(network(), ["*", pattern])


def test_a_bare_layer_is_no_model():
    with pytest.raises(InvalidSetting, match=r"layers: \(none\)"):
        target_layers(nn.Linear(2, 2), ["*"])


def test_subclasses_that_may_bypass_forward_are_no_targets():
    attention = nn.MultiheadAttention(8, 2)
    with pytest.raises(InvalidSetting, match="matches no"):
        target_layers(nn.Sequential(attention), ["*"])


def test_the_first_matching_rule_wins_and_the_rest_stays_dense():
    dense = network()
    rules = [rule("int1", pattern="3"), rule("rtn", pattern="[36]")]
    model = compress_model(copy.deepcopy(dense), rules, TARGETS)
    assert {n: e.method.name for n, e in model.compression.layers.items()} == {
        "3": "int1",
        "6": "rtn",
    }
    assert torch.equal(model[0].weight, dense[0].weight)
    assert torch.equal(model[8].weight, dense[8].weight)


@pytest.mark.parametrize("method", [name for name in SINGLE if fit(name, "none")])
def test_a_layer_computes_with_its_decoded_weight(method):
    dense, pattern = network(), pattern_for(method)
    plugin = METHODS.build(method)
    model = copy.deepcopy(dense)
    compress_model(model, [rule(plugin, pattern=pattern)], TARGETS, calibration=calibration())
    layers = target_layers(dense, [pattern])
    stats = collect(dense, layers, plugin.needs, calibration())
    for name, layer in layers.items():
        layer.weight.data = plugin.compress(layer.weight, stats.get(name)).dense()
        assert type(model.get_submodule(name)) is type(layer)
    assert torch.equal(model(inputs()), dense(inputs()))


def test_packed_linear_gives_what_the_layer_gives():
    for method in (m for m in SINGLE if fit(m, "none") and "linear" in METHODS[m]().kinds):
        dense, stats = nn.Sequential(nn.Linear(9, 5, bias=False)), {"0": layer_stats((5, 9))}
        layer = compress_model(dense, [rule(method)], ["0"], stats)[0]
        x = torch.randn(3, 9)
        if packed := packed_of(layer):
            torch.testing.assert_close(packed.linear(x), layer(x))


def test_none_leaves_the_model_as_it_is():
    dense = network()
    model = compress_model(copy.deepcopy(dense), [rule()], TARGETS)
    assert not model.compression.layers
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {
        k: v.tolist() for k, v in dense.state_dict().items()
    }


def test_only_adapters_are_trainable():
    assert trainable(compress_model(network(), [rule("rtn")], TARGETS)) == []
    model = compress_model(network(), [rule("rtn", "zeros", "lora", 2)], TARGETS)
    assert len(trainable(model)) == 8
    assert all("lora_" in n for n, p in model.named_parameters() if p.requires_grad)


def test_state_dict_holds_the_packed_state_and_no_decoded_weight():
    model = compress_model(network(), [rule("rtn")], TARGETS)
    assert "6.weight" not in model.state_dict()
    assert {"6.packed.codes", "6.packed.scale", "6.bias"} <= model.state_dict().keys()


def test_ranks_are_clamped_for_each_layer_with_the_scale_kept_and_noted():
    model = compress_model(network(), [rule("rtn", "zeros", "lora", 10, 20.0)], TARGETS)
    entries = model.compression.layers
    assert {name: e.rank for name, e in entries.items()} == {"0": 6, "3": 5, "6": 10, "8": 7}
    assert all(e.alpha == 2 * e.rank for e in entries.values())
    assert [n for n in model.compression.notes if "clamped" in n] == [
        "0: rank 10 clamped to 6",
        "3: rank 10 clamped to 5",
        "8: rank 10 clamped to 7",
    ]


def test_a_layer_that_grows_is_noted():
    model = compress_model(network(), [rule(METHODS.build("svd", {"rank": 7}))], TARGETS)
    assert any("8: svd stores" in note for note in model.compression.notes)


def test_rest_is_cast_and_targets_under_none_are_not():
    dense = network()
    with torch.no_grad():
        dense[1].running_mean.uniform_()
    rules = [rule("rtn", pattern="[036]"), rule("none", pattern="8")]
    rest = METHODS.build("cast")
    model = compress_model(copy.deepcopy(dense), rules, TARGETS, rest=rest)
    state, before = model.state_dict(), dense.state_dict()
    for key in ("1.weight", "1.bias", "1.running_mean", "3.bias", "6.bias", "8.bias"):
        assert torch.equal(state[key], before[key].half().float()), key
    assert torch.equal(state["8.weight"], before["8.weight"])
    assert not torch.equal(before["8.weight"], before["8.weight"].half().float())
    assert state["1.num_batches_tracked"].dtype == torch.int64


def test_same_generator_same_model():
    models = [
        compress_model(network(), [rule("int1", "zeros", "lora", 3)], TARGETS, None, generator())
        for _ in range(2)
    ]
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_compressed_model_survives_copying_and_pickling():
    model = compress_model(network(), [rule("rtn", "residual", "dora", 2)], TARGETS)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(inputs()), model(inputs()))
        assert compression_of(other) == model.compression


def test_half_precision_models_keep_their_dtype():
    dense = network().to(torch.bfloat16)
    model = compress_model(dense, [rule("rtn", "residual", "lora", 2)], TARGETS)
    assert model(inputs().to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Rule(methods=(METHODS.build("rtn"), METHODS.build("int1"))), "rtn: leaves nothing in"),
        (Rule(methods=()), "needs at least one method"),
        (rule("rtn", rank=2), "rank 2 has no effect without an adapter"),
        (rule("rtn", adapter="lora"), "needs a rank of at least 1"),
        (rule("rtn", adapter="lora", rank=13), r"rank 13 is above min\(out, in\) = 12"),
        (rule("rtn", adapter="lora", rank=1, alpha=0.0), "alpha must be above 0"),
        (rule("rtn", pattern="no*"), r"'no\*' matches no target layer; targets: 0, 3, 6, 8"),
    ],
)
def test_bad_rules_are_refused(made, message):
    with pytest.raises(InvalidSetting, match=message):
        compress_model(network(), [made], TARGETS)


def test_a_kind_of_layer_that_a_method_cannot_take_is_named():
    class LinearOnly(NoMethod):
        kinds = frozenset({"linear"})

    with pytest.raises(InvalidSetting, match="none cannot take '0', a layer of type Conv2d"):
        compress_model(network(), [rule(LinearOnly())], TARGETS)


def test_errors_name_the_layer():
    model = network()
    model[6].weight.data[0, 0] = float("nan")
    with pytest.raises(InvalidSetting, match="6: rtn: the weight holds NaN"):
        compress_model(model, [rule("rtn")], TARGETS)


def test_all_errors_come_at_once():
    bad = [rule("rtn", rank=2, pattern="0"), rule("rtn", adapter="lora", pattern="3")]
    with pytest.raises(InvalidSetting) as caught:
        compress_model(network(), bad, TARGETS, rest=METHODS.build("int1"))
    assert len(caught.value.errors) == 3


def test_compressing_twice_is_refused():
    model = compress_model(network(), [rule("rtn")], TARGETS)
    with pytest.raises(InvalidSetting, match="compressed already"):
        compress_model(model, [rule("rtn")], TARGETS)


def test_tied_weights_are_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(InvalidSetting, match=r"0: its weight is shared \(0.weight = 1.weight\)"):
        compress_model(model, [rule("rtn")], TARGETS)
    compress_model(model, [rule("none")], TARGETS)


def test_a_method_may_plan_its_layers_together():
    class Alternate(NoMethod):
        def plan(self, scene):
            names = ["rtn", "int1"]
            return Plan({n: METHODS.build(names[i % 2]) for i, n in enumerate(scene.layers)})

    model = compress_model(network(), [rule(Alternate())], ["*"])
    assert [e.method.name for e in model.compression.layers.values()] == ["rtn", "int1"] * 2
    assert packed_of(model[8]).method.name == "int1"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("init", ["zeros", "pissa", "svdquant", "loftq"])
def test_a_layer_is_calibrated_on_the_adapted_layers_before_it(init, dtype):
    seen = {}

    class Watching(METHODS["gptq"]):
        def encode(self, weight, stats):
            seen.setdefault(len(weight), stats.inputs.second_moment)
            return super().encode(weight, stats)

    adapter = ADAPTERS.build("lora", {"dtype": dtype})
    method = Watching(bits=4, inputs="compressed")
    dense = network()
    model = compress_model(
        network(), [rule(method, init, adapter, 2, 4.0)], TARGETS, calibration=calibration()
    )
    live = {name: bare(layer) for name, layer in target_layers(model, TARGETS).items()}
    for layer in live.values():  # what is packed is the base again
        assert torch.equal(layer.weight, packed_of(layer).dense())
    with as_saved(model):
        for name, layer in live.items():
            moment = collect(model, [name], {"inputs"}, calibration())[name].inputs.second_moment
            torch.testing.assert_close(seen[len(layer.weight)], moment, atol=1e-5, rtol=1e-4)
    far = collect(dense, ["8"], {"inputs"}, calibration())["8"].inputs.second_moment
    assert (seen[7] - far).norm() < 0.5 * far.norm()


def test_calibration_goes_no_further_than_the_layer_it_is_for():
    model, runs, last = network().train(), calibration(), []
    model[8].register_forward_hook(lambda *args: last.append(1))
    found = collect(model, ["3"], {"inputs"}, runs)["3"].inputs
    assert len(last) == 1  # the first pass is whole, and tells how often the layer is called
    assert not model[3]._forward_pre_hooks
    assert all(module.training for module in model.modules())
    whole = collect(model, ["3", "8"], {"inputs"}, runs)["3"].inputs
    assert torch.equal(found.second_moment, whole.second_moment)
    assert found.count == whole.count


def test_calibration_sees_every_call_of_a_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(64, 64)

        def forward(self, x):
            return self.inner(self.inner(x.flatten(1)))

    stats = collect(nn.Sequential(Twice()), ["0.inner"], {"inputs"}, calibration())
    assert stats["0.inner"].inputs.count == 48
