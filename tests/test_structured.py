"""Channels and blocks removed for good: exact where masked, coupled, small in the file."""

import copy

import pytest
import torch
from networks import macs_of, rule
from residual_network import calibration, edited, inputs, network, pruned, scene
from torch import nn

from compression.artifact import deserialize, serialize
from compression.calibration import Calibration
from compression.edits.keep_channels import mask_of
from compression.methods import METHODS
from compression.methods.base import Scene
from compression.methods.structured import coupling
from compression.methods.structured.coupling import Group, groups_of, mask_inputs, masks_of, sound
from compression.model import Rule, compress_model, target_layers, trainable
from compression.registry import InvalidSetting
from compression.size import measure

pytest.importorskip("torch_pruning")


# Exactness: what is removed is what was masked.


@pytest.mark.parametrize("groups", [0, 1, 2, 3], ids="{} groups".format)
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_removed_channels_equal_masked_ones(groups, ratio):
    model = network(groups=groups)
    found, _ = groups_of(model, calibration(), target_layers(model, ["*"]))
    assert {len(group.inputs) for group in found} == {1, 4}  # the residual stream has four readers
    generator = torch.Generator().manual_seed(3)
    chosen = {g: g.best(torch.rand(g.size, generator=generator), g.count(ratio)) for g in found}
    masks, masked, sliced = masks_of(chosen), copy.deepcopy(model), copy.deepcopy(model)
    mask_inputs(masked, masks.inputs)
    for edit in masks.edits():
        edit.apply(sliced)
    torch.testing.assert_close(sliced(inputs()), masked(inputs()), rtol=1e-5, atol=1e-5)
    assert sliced(inputs()).shape == (16, 5)
    assert sliced[0].in_channels == 3
    for group, kept in chosen.items():
        assert int(kept.sum()) == group.count(ratio) >= ratio * group.size
        assert group.count(ratio) % group.step == 0


@pytest.mark.parametrize("apart", [{0, 3}, {1, 2}, {0, 1, 4}, {2, 3, 4}, {5}, {0, 5}])
def test_what_remains_after_a_check_was_checked_together(apart, monkeypatch):
    """Groups of which some cannot go together: halves that are fine make no whole that is."""
    groups = [Group(2) for _ in range(6)]
    number = {group: i for i, group in enumerate(groups)}
    checked = []

    def agrees(model, calibration, chosen):
        checked.append(chosen)
        return not apart <= chosen

    monkeypatch.setattr(coupling, "_agrees", agrees)
    monkeypatch.setattr(coupling, "masks_of", lambda chosen: {number[group] for group in chosen})
    found = sound(nn.Linear(1, 1), calibration(), dict.fromkeys(groups, torch.ones(2) > 0))
    left = {number[group] for group in found}
    assert not apart <= left
    assert left in checked
    assert len(left) >= 3


def test_loraprune_removes_what_it_masks():
    model = network()
    plan = METHODS.build("loraprune", {"keep_ratio": 0.5}).plan(scene(model, needs={"gradients"}))
    assert not plan.weights
    less = edited(model, plan)
    masked = copy.deepcopy(model)
    for edit in plan.edits:
        kept = mask_of(edit.kept)
        for name in filter(None, edit.inputs.split(",")):
            layer = masked.get_submodule(name)
            channels = layer.weight.shape[1]
            mask_inputs(masked, {name: kept.repeat_interleave(channels // len(kept))})
    torch.testing.assert_close(less(inputs()), masked(inputs()), rtol=1e-5, atol=1e-5)


# Through compression, file and counts.


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("channels", {"keep_ratio": 0.5}),
        ("channels", {"keep_ratio": 0.5, "criterion": "magnitude"}),
        ("loraprune", {"keep_ratio": 0.5}),
        ("drop_blocks", {"count": 1}),
    ],
)
def test_the_file_loads_into_a_fresh_architecture_without_tracing(
    method, args, adapter, monkeypatch
):
    lora = adapter == "lora"  # which takes no depthwise convolution: these follow
    targets = ["0", "*.up", "*.down", "6", "8"] if lora else ["*"]
    model = pruned(method, targets=targets, adapter=adapter, rank=4 if lora else 0, **args)
    if method != "drop_blocks":
        assert model[3][1].deep.groups == 6
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.05)
    assert bool(trainable(model)) == lora
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    data = serialize(model)
    loaded = deserialize(data, network(9))
    assert torch.equal(loaded(inputs()), model(inputs()))
    assert serialize(loaded) == data
    assert measure(model, ["*"]).file_bytes == len(data)
    if not lora:
        weights = sum(layer.weight.numel() for layer in target_layers(model, ["*"]).values())
        assert measure(model, ["*"]).targets["base"] == 4 * weights
        assert macs_of(model, inputs()) < macs_of(network(), inputs())
        assert len(data) < len(serialize(network()))


def test_what_stays_goes_on_in_a_chain():
    methods = (METHODS.build("channels", {"keep_ratio": 0.5}), METHODS.build("rtn"))
    model = compress_model(network(), [Rule(methods=methods)], ["*"], calibration=calibration())
    assert {entry.method.name for entry in model.compression.layers.values()} == {"rtn"}
    assert model[0].weight.shape[0] == 4
    loaded = deserialize(serialize(model), network(9))
    assert torch.equal(loaded(inputs()), model(inputs()))


@pytest.mark.parametrize("method", ["channels", "loraprune"])
def test_nothing_is_removed_at_a_ratio_of_one(method):
    model = pruned(method, keep_ratio=1.0)
    assert not model.compression.edits
    assert torch.equal(model(inputs()), network()(inputs()))


def test_only_groups_that_are_all_targets_lose_outputs():
    model = pruned("channels", targets=["3.1.*"], keep_ratio=0.5)
    stay = {name: layer.weight.shape for name, layer in target_layers(network(), ["*"]).items()}
    now = {name: layer.weight.shape for name, layer in target_layers(model, ["*"]).items()}
    assert {name for name in now if now[name] != stay[name]} == {"3.1.up", "3.1.deep", "3.1.down"}
    assert any("3.1.down" in n and "is no target" in n for n in model.compression.notes)
    model = pruned("channels", targets=["6"], keep_ratio=0.5)
    assert (model[6].out_features, model[8].in_features) == (5, 5)
    assert any("8 is no target and loses inputs" in note for note in model.compression.notes)


def test_without_examples_or_the_library_it_is_refused(monkeypatch):
    with pytest.raises(InvalidSetting, match="needs calibration examples"):
        METHODS.build("drop_blocks").plan(Scene(network(), {}))
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(InvalidSetting, match=r"paretune\[structured\]"):
        pruned("channels")


def test_a_transformer_loses_hidden_units_and_layers():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=30,
    )

    def make():
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config).eval()

    ids = torch.arange(1, 25).view(4, 6)
    real = torch.ones(4, 6, dtype=torch.long)
    real[:2, 4:] = 0

    def forward(model, rows):
        return model(input_ids=ids[rows], attention_mask=real[rows]).logits

    rows = torch.arange(4)
    examples = Calibration(
        4, lambda r: r, forward, lambda m, r: forward(m, r).mean(), lambda r: real[r].bool()
    )
    for name, args in (("channels", {"keep_ratio": 0.5}), ("drop_blocks", {"count": 1})):
        made = rule(METHODS.build(name, args))
        model = compress_model(make(), [made], ["*encoder*"], calibration=examples)
        if name == "channels":
            assert model.bert.encoder.layer[1].intermediate.dense.out_features == 12
            assert model.bert.encoder.layer[1].attention.self.query.out_features == 16
        else:
            assert len(model.compression.edits) == 1
        loaded = deserialize(serialize(model), make())
        assert torch.equal(forward(loaded, rows), forward(model, rows))


@pytest.mark.parametrize("method", ["channels", "loraprune"])
def test_the_frozen_part_is_still_computed_once(method, tmp_path):
    from tiny_task import TinyTask

    from trainables import features
    from trainables.frozen.feature_store import Store
    from trainables.frozen.prefix import changed_layers

    class Deep(TinyTask):
        targets = ("6", "8")

    task = Deep()
    data = task.prepare(0)
    examples = Calibration(
        16,
        data.train.inputs,
        task.forward,
        lambda m, x: task.forward(m, x).square().mean(),
    )
    made = rule(METHODS.build(method, {"keep_ratio": 0.5}), adapter="lora", rank=2)
    model = compress_model(copy.deepcopy(data.model), [made], task.targets, calibration=examples)
    assert model.compression.edits
    assert changed_layers(model, data.model) == ("6", "8")
    stage = features.stage(task, data, model, Store(tmp_path / "features", budget=1 << 30))
    assert stage.reads == {"6": "cut0"}
    rows = torch.tensor([5, 0, 90])
    expected = task.forward(model, data.train.inputs(rows))
    torch.testing.assert_close(stage.forward(stage.train.inputs(rows)), expected)
