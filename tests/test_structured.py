"""Channels and blocks removed for good: exact where masked, coupled, small in the file."""

import copy

import pytest
import torch
from networks import layer_stats, macs_of, rule
from torch import nn

from compression.artifact import deserialize, serialize
from compression.calibration import Calibration
from compression.collecting import collect
from compression.edits import EDITS, Bypass, KeepChannels
from compression.edits.keep_channels import mask_of, text_of
from compression.methods import METHODS
from compression.methods.base import Scene
from compression.methods.structured import coupling
from compression.methods.structured.channels import lasso_order
from compression.methods.structured.coupling import Group, groups_of, mask_inputs, masks_of, sound
from compression.methods.structured.loraprune import low_rank_gradient
from compression.methods.structured.removal import least_squares, reader_gram
from compression.model import Rule, compress_model, target_layers, trainable
from compression.registry import InvalidSetting
from compression.size import measure

pytest.importorskip("torch_pruning")


class Residual(nn.Module):
    """conv, depthwise, conv with BatchNorms, around which the input is added."""

    def __init__(self, channels=8, hidden=12, groups=1):
        super().__init__()
        self.up, self.norm1 = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.deep = nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups or hidden)
        self.down, self.norm2 = nn.Conv2d(hidden, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x):
        h = self.deep(self.norm1(self.up(x)).relu()).relu()
        return x + self.norm2(self.down(h))


def network(seed=0, groups=0):
    torch.manual_seed(seed)
    stem = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    blocks = nn.Sequential(*(Residual(groups=groups) for _ in range(3)))
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 5)]
    model = nn.Sequential(*stem, blocks, *head)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def inputs(count=16):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def calibration(x=None):
    x = inputs() if x is None else x
    return Calibration(
        len(x), lambda rows: x[rows], lambda m, b: m(b), lambda m, b: m(b).square().mean()
    )


def scene(model, targets=("*",), needs=()):
    layers, examples = target_layers(model, targets), calibration()
    return Scene(model, layers, collect(model, layers, needs, examples), examples)


def pruned(method, model=None, targets=("*",), adapter="none", rank=0, **args):
    model = model or network()
    made = rule(METHODS.build(method, args), adapter=adapter, rank=rank)
    return compress_model(model, [made], targets, calibration=calibration())


def edited(model, plan):
    model = copy.deepcopy(model)
    for edit in plan.edits:
        edit.apply(model)
    return model


# The edit.


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 64, 100])
def test_masks_survive_as_text(count):
    mask = torch.rand(count, generator=torch.Generator().manual_seed(count)) > 0.4
    mask[-1] = True
    bits = mask_of(text_of(mask))
    assert torch.equal(bits.repeat_interleave(count // len(bits)), mask)
    assert text_of(mask.repeat_interleave(9)) == text_of(mask)


@pytest.mark.parametrize("kept", ["3:AA", "3:_w", "8:A", "3:AAAAA"])
def test_bitmaps_that_are_none_are_refused(kept):
    with pytest.raises(InvalidSetting, match="keep_channels.kept"):
        KeepChannels(kept, "0").apply(network())


@pytest.mark.parametrize("count", [str(10**12), "1" * 5000, "٣", "-1", ""])
def test_bitmaps_of_absurd_lengths_are_refused(count):
    with pytest.raises(InvalidSetting, match="keep_channels.kept"):
        EDITS.build("keep_channels", {"kept": f"{count}:AQ", "outputs": "0"})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("3:Bw", "", ""), "name modules"),
        (("999999999:AQ", "0", ""), "has 8 outputs, the bitmap is of 999999999"),
        (("3:Bw", "9", ""), "'9' is not in this model"),
        (("3:Aw", "0", ""), "has 8 outputs, the bitmap is of 3"),
        (("2:AQ", "2", ""), "ReLU, which has no outputs"),
        (("2:AQ", "", "1"), "BatchNorm2d, which has no inputs"),
        (("2:AQ", "", "3.0.deep"), "has no inputs"),
    ],
)
def test_edits_that_do_not_fit_are_refused_and_change_nothing(args, message):
    model = network()
    with pytest.raises(InvalidSetting, match=message):
        KeepChannels(*args).apply(model)
    assert model.state_dict().keys() == network().state_dict().keys()


def test_grouped_convolutions_keep_as_many_in_each_group():
    conv, x = nn.Conv2d(6, 4, 3, groups=2), torch.randn(2, 6, 5, 5)
    model = nn.Sequential(copy.deepcopy(conv))
    with pytest.raises(InvalidSetting, match="unequal numbers"):
        KeepChannels(text_of(torch.tensor([1, 1, 0, 1, 0, 0]) > 0), "", "0").apply(model)
    kept = torch.tensor([1, 1, 0, 0, 1, 1]) > 0
    KeepChannels(text_of(kept), "", "0").apply(model)
    torch.testing.assert_close(model(x[:, kept]), conv(x * kept[None, :, None, None]))
    out = torch.tensor([1, 0, 0, 1]) > 0
    KeepChannels(text_of(out), "0").apply(model)
    masked = conv(x * kept[None, :, None, None])[:, out]
    torch.testing.assert_close(model(x[:, kept]), masked)


def test_a_skipped_block_gives_back_its_first_argument():
    model = network()
    Bypass("3.1").apply(model)
    x = torch.ones(2)
    assert model[3][1](x, 1, other=2) is x
    assert model[3][1](hidden=x, other=2) is x


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


# Least squares and LASSO.


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [None, 3])
def test_rebuilding_is_the_closed_form_and_never_worse_than_masking(groups, rank):
    x = torch.randn(groups, 50, 12, dtype=torch.float64)
    if rank:
        x = x[..., :rank] @ torch.randn(groups, rank, 12, dtype=torch.float64)
    h, w = x.transpose(1, 2) @ x / 50, torch.randn(groups, 5, 12, dtype=torch.float64)
    stays = torch.stack([torch.randperm(12) < 7 for _ in range(groups)])
    new = least_squares(w, h, stays).double()
    for g in range(groups):
        s = stays[g]
        target, seen = x[g] @ w[g].T, x[g][:, s]
        masked = (target - seen @ w[g][:, s].T).norm()
        error = (target - seen @ new[g].T).norm()
        best = (target - seen @ torch.linalg.lstsq(seen, target, driver="gelsd").solution).norm()
        assert error <= masked * (1 + 1e-6)
        assert error <= best + 0.02 * masked


@pytest.mark.parametrize("h", [torch.full((1, 3, 3), torch.nan), -torch.ones(1, 3, 3)])
def test_what_is_no_second_moment_is_refused(h):
    with pytest.raises(InvalidSetting, match="second moments"):
        least_squares(torch.ones(1, 2, 3), h, torch.tensor([[True, True, False]]))


def test_the_gram_matrix_is_that_of_the_channels_outputs():
    model = network()
    found, _ = groups_of(model, calibration(), target_layers(model, ["*"]))
    group = next(g for g in found if g.inputs.keys() == {"3.0.down"})
    stats = scene(model, needs={"inputs"}).stats["3.0.down"].inputs
    block, seen = model[3][0], []
    handle = block.down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(inputs())
    handle.remove()
    x = seen[0].permute(0, 2, 3, 1).flatten(0, 2)
    z = x[:, :, None] * block.down.weight[:, :, 0, 0].T  # (rows, channels, outputs)
    expected = torch.einsum("rco,rdo->cd", z, z) / len(x)
    gram = reader_gram(group, "3.0.down", block.down, stats)
    torch.testing.assert_close(gram, expected, rtol=1e-4, atol=1e-5)


def test_lasso_keeps_what_contributes_and_one_of_two_that_are_alike():
    z = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    z[:, 1] *= 0.01
    z[:, 3] = 0
    scores = lasso_order(z.T @ z)
    assert set(scores.topk(4).indices.tolist()) == {0, 2, 4, 5}
    assert lasso_order(torch.zeros(3, 3)).tolist() == [0, 0, 0]


def test_rebuilding_helps_on_the_calibration_inputs():
    model = network()
    plan = METHODS.build("channels", {"keep_ratio": 0.5}).plan(scene(model, needs={"inputs"}))
    plain, rebuilt = edited(model, plan), edited(model, plan)
    for name, weight in plan.weights.items():
        assert weight.shape == rebuilt.get_submodule(name).weight.shape
        rebuilt.get_submodule(name).weight.data = weight
    errors = [(m(inputs()) - model(inputs())).norm() for m in (rebuilt, plain)]
    assert errors[0] < errors[1]


# LoRAPrune.


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_only_low_rank_gradients_are_used(shape):
    g = layer_stats(shape).gradients.mean
    seen = low_rank_gradient(g, 3)
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    torch.testing.assert_close(seen, u[:, :3] * s[:3] @ v[:3], atol=1e-5, rtol=1e-5)
    # A is an adapter's: autograd at B = 0 gives the same.
    b = torch.zeros(shape[0], 3, requires_grad=True)
    ((b @ v[:3]) * g).sum().backward()
    torch.testing.assert_close(b.grad @ v[:3], seen, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(low_rank_gradient(g, 9), g if min(shape) < 9 else seen)


@pytest.mark.parametrize("shape", [(48, 160), (160, 48)])
def test_few_directions_tell_which_channels_matter(shape):
    """Of a gradient of rank 4 and as much noise: scores of columns, by E and by all of G."""
    made = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=made)

    sizes = normal(1, shape[1]).exp()
    low = normal(shape[0], 4) @ normal(4, shape[1]) / 2 * sizes
    gradient = low + normal(*shape) * low.square().mean().sqrt()
    weight = normal(*shape)
    scores = [(weight * g).square().sum(0) for g in (low_rank_gradient(gradient, 8), gradient)]
    assert torch.corrcoef(torch.stack(scores))[0, 1] > 0.5


# Depth.


def test_the_block_that_changes_least_goes():
    model = network()
    with torch.no_grad():
        model[3][1].norm2.weight.zero_()
        model[3][1].norm2.bias.zero_()
    plan = METHODS.build("drop_blocks", {"count": 1}).plan(scene(model))
    assert plan.edits == (Bypass("3.1"),)
    torch.testing.assert_close(edited(model, plan)(inputs()), model(inputs()))
    assert "3.1: angular distance 0.0000" in plan.notes


def test_no_block_removed_leaves_the_model_as_it_is():
    model = pruned("drop_blocks", share=0.0)
    assert not model.compression.edits
    assert torch.equal(model(inputs()), network()(inputs()))


def test_blocks_go_in_a_row_and_no_more_than_there_are():
    plan = METHODS.build("drop_blocks", {"count": 2}).plan(scene(network()))
    assert [e.module for e in plan.edits] in (["3.0", "3.1"], ["3.1", "3.2"])
    with pytest.raises(InvalidSetting, match="4 blocks asked, there are 3"):
        METHODS.build("drop_blocks", {"count": 4}).plan(scene(network()))
    with pytest.raises(InvalidSetting, match="no stack"):
        METHODS.build("drop_blocks").plan(scene(network(), ["3.1.up"]))


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
