"""Structure edits: what they leave out is gone from the model, the file and the counts."""

import copy

import pytest
import torch
from networks import COMMON, generator, macs_of, rule
from torch import nn

from compression.artifact import deserialize, read_header, save, serialize
from compression.edits import EDITS, Bypass
from compression.methods import METHODS, Plan
from compression.methods.none import NoMethod
from compression.methods.quantize.rtn import RoundToNearest
from compression.model import compress_model, target_layers, trainable
from compression.registry import InvalidSetting, Text
from compression.size import measure


class Block(nn.Module):
    """A residual block with every kind of tensor: weights, biases, norms, an integer buffer."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6, bias=False)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return x + self.norm(self.down(self.up(x).relu()))


def network(seed=0):
    torch.manual_seed(seed)
    blocks = nn.Sequential(Block(), Block(), Block())
    return nn.Sequential(nn.Linear(5, 6), blocks, nn.Linear(6, 3)).eval()


BLOCK = "1.1"
GONE = {"1.1.up", "1.1.down"}


def inputs():
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(1))


def cutting(base, *modules):
    """A test's own method: as ``base``, and its plan bypasses ``modules``."""

    class Cuts(base):
        def plan(self, scene):
            as_base = METHODS.build(base.name)
            return Plan(dict.fromkeys(scene.layers, as_base), tuple(Bypass(m) for m in modules))

    return Cuts()


def cut(method=RoundToNearest, adapter="none", rest="none", modules=(BLOCK,), model=None):
    made = rule(cutting(method, *modules), "zeros", adapter, 0 if adapter == "none" else 2)
    model = compress_model(
        model or network(), [made], ["*"], generator=generator(), rest=METHODS.build(rest)
    )
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.1)
    return model


def tensor_bytes(module):
    return sum(tensor.nbytes for tensor in module.state_dict().values())


# The contract: a new edit meets these with no new line here.


def example(name):
    """The edit at a place that the network has."""
    if name == "keep_channels":
        return EDITS.build(name, {"kept": "10:Xw", "outputs": "1.1.up", "inputs": "1.1.down"})
    knobs = EDITS[name].knobs().items()
    return EDITS.build(name, {key: "1.1" for key, knob in knobs if isinstance(knob.valid, Text)})


@pytest.mark.parametrize("name", EDITS)
def test_a_model_without_the_place_is_refused_and_left_as_it_is(name):
    for edit in (EDITS.build(name), example(name)):
        model = nn.Sequential(nn.ReLU())
        with pytest.raises(InvalidSetting, match=rf"{name}\.\w+: "):
            edit.apply(model)
        assert [type(module) for module in model] == [nn.ReLU]


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_follows_from_its_settings_alone_and_adds_no_tensor(name):
    one, other = network(0), network(9)
    before = tensor_bytes(one), set(one.state_dict())
    example(name).apply(one)
    EDITS.build(name, example(name).args()).apply(other)
    assert tensor_bytes(one) <= before[0]
    assert set(one.state_dict()) <= before[1]
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(inputs()), other(inputs()))


# Bypass.


def test_a_bypassed_module_gives_back_its_input():
    dense, model = network(), network()
    Bypass(BLOCK).apply(model)
    assert tensor_bytes(model) == tensor_bytes(dense) - tensor_bytes(dense.get_submodule(BLOCK))
    expected = dense[2](dense[1][2](dense[1][0](dense[0](inputs()))))
    assert torch.equal(model(inputs()), expected)
    assert {n for n, _ in dense.named_parameters()} - {n for n, _ in model.named_parameters()} == {
        f"{BLOCK}.{n}" for n, _ in dense.get_submodule(BLOCK).named_parameters()
    }


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("", "whole model cannot be bypassed"),
        ("1.7", "'1.7' is not in this Sequential"),
        ("1.1.up.weight", "'1.1.up.weight' is not in this Sequential"),
    ],
)
def test_modules_that_cannot_be_bypassed_are_named(module, message):
    with pytest.raises(InvalidSetting, match=f"bypass.module: .*{message}"):
        Bypass(module).apply(network())


@pytest.mark.parametrize("path", [".a", "a.", "a..b", ".", 3])
def test_malformed_paths_are_refused(path):
    with pytest.raises(InvalidSetting, match="expected a dotted module path"):
        Bypass(path)


def test_a_module_tied_to_what_stays_is_refused_and_one_tied_within_is_not():
    model = network()
    model[1][0].up.weight = model[1][1].up.weight
    with pytest.raises(InvalidSetting, match=r"1.1.up.weight = 1.0.up.weight"):
        Bypass(BLOCK).apply(model)
    model[1][2] = model[1][1]
    with pytest.raises(InvalidSetting, match="shares tensors"):
        Bypass(BLOCK).apply(model)
    Bypass("1").apply(model)
    assert isinstance(model[1], nn.Identity)


# Through compression, file and counts.


@pytest.mark.parametrize("rest", ["none", "cast"])
@pytest.mark.parametrize("adapter", COMMON)
@pytest.mark.parametrize("method", [NoMethod, RoundToNearest])
def test_a_plan_with_edits_round_trips_bitwise(method, adapter, rest, tmp_path):
    model, path = cut(method, adapter, rest), str(tmp_path / "model.safetensors")
    data = serialize(model)
    save(model, path)
    loaded = deserialize(data, network(9))
    assert torch.equal(loaded(inputs()), model(inputs()))
    assert serialize(loaded) == data
    assert read_header(path).compression.edits == model.compression.edits == (Bypass(BLOCK),)
    assert not GONE & model.compression.layers.keys()
    assert "edit: Bypass(module='1.1')" in model.compression.notes


def test_without_edits_the_header_does_not_speak_of_them():
    assert b"edits" not in serialize(compress_model(network(), [rule("rtn")], ["*"]))
    assert b"edits" in serialize(cut())


def test_the_file_shrinks_by_exactly_the_tensors_of_the_block():
    block = tensor_bytes(network().get_submodule(BLOCK))
    whole, less = (measure(m, ["*"]) for m in (network(), cut(NoMethod)))
    weights = sum(network().get_submodule(name).weight.nbytes for name in GONE)
    bias = network().get_submodule("1.1.up").bias.nbytes

    def tensors(counted):
        return counted.file_bytes - counted.model["header"]

    assert tensors(whole) - tensors(less) == block
    assert whole.targets["base"] - less.targets["base"] == weights
    assert whole.targets["untouched"] - less.targets["untouched"] == bias
    assert whole.nominal_bits - less.nominal_bits == 8 * weights
    assert less.file_bytes == len(serialize(cut(NoMethod)))


def test_packed_blocks_shrink_by_their_packed_tensors():
    packed = compress_model(network(), [rule("rtn")], ["*"])
    block = tensor_bytes(packed.get_submodule(BLOCK))
    whole, less = (measure(m, ["*"]) for m in (packed, cut()))
    gone = sum(whole.model.values()) - whole.model["header"]
    gone -= sum(less.model.values()) - less.model["header"]
    assert gone == block


def test_patterns_whose_layers_are_all_gone_count_nothing():
    targets = sorted(GONE)
    made = rule(cutting(NoMethod, BLOCK))
    model = compress_model(network(), [made], targets, rest=METHODS.build("cast"))
    size = measure(model, targets)
    assert set(size.targets.values()) == {0}
    assert size.nominal_bits == 0
    assert target_layers(model, targets) == {}
    assert serialize(deserialize(serialize(model), network(9))) == serialize(model)
    with pytest.raises(InvalidSetting, match="compressed already"):
        compress_model(model, [rule("rtn")], ["0"])


def test_macs_are_those_of_what_is_left():
    work = sum(network().get_submodule(name).weight.numel() for name in GONE)
    assert macs_of(network(), inputs()) - macs_of(cut(NoMethod), inputs()) == work
    model = nn.Sequential(nn.Linear(5, 5))
    assert macs_of(cut(NoMethod, modules=("0",), model=model), inputs()) == 0


def test_an_edit_of_one_rule_removes_the_layers_of_another():
    rules = [
        rule(cutting(NoMethod, BLOCK), pattern="2"),
        rule("rtn", "zeros", "lora", 2, pattern="1.1*"),
        rule(cutting(RoundToNearest, BLOCK), pattern="*"),
    ]
    model = compress_model(network(), rules, ["*"])
    assert model.compression.edits == (Bypass(BLOCK),)
    assert not trainable(model)
    assert not GONE & model.compression.layers.keys()
    assert "1.0.up" in model.compression.layers


def test_edits_apply_in_order():
    model = cut(NoMethod, modules=("1.1.norm", "1.1"))
    assert model.compression.edits == (Bypass("1.1.norm"), Bypass("1.1"))
    assert torch.equal(deserialize(serialize(model), network(9))(inputs()), model(inputs()))
    with pytest.raises(InvalidSetting, match=r"'1.1.norm' is not in this"):
        cut(NoMethod, modules=("1.1", "1.1.norm"))


def test_a_compressed_model_with_edits_survives_copying():
    model = cut()
    other = copy.deepcopy(model)
    assert other.compression == model.compression
    assert serialize(other) == serialize(model)
