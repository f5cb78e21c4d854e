"""The contract of every adapter on Linear and Conv2d, dense and compressed."""

import copy

import pytest
import torch
from networks import TARGETS, generator, inputs, network, rule, variants
from torch import nn
from torch.nn import functional as F

from compression.adapters import ADAPTERS, AdapterStart
from compression.kinds import bare
from compression.layers import packed_of
from compression.model import as_saved, compress_model, finalize, target_layers, trainable
from compression.registry import InvalidSetting

REAL = [adapter for adapter in variants(ADAPTERS) if adapter.name != "none"]
LAYERS = {
    "linear": (lambda: nn.Linear(12, 9), (5, 12)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8)),
    "conv same": (lambda: nn.Conv2d(4, 6, (3, 1), padding="same", bias=False), (2, 4, 8, 8)),
}


def call(layer, weight, x):
    """The layer's output with another weight."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, layer.bias)
    return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding)


@pytest.mark.parametrize("alpha", [1.0, 3.0, 16.0])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("method", ["int1", "block_sparse", "svd"])
@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if a != "none"])
def test_starts_as_base_plus_delta_whatever_alpha(adapter, method, kind, alpha):
    adapter, (make, shape) = ADAPTERS.build(adapter), LAYERS[kind]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    compress_model(model, [rule(method)], TARGETS)
    layer = model[0]
    rows, columns, rank = layer.weight.shape[0], layer.weight[0].numel(), 3
    start = AdapterStart(torch.randn(rows, rank), torch.randn(rank, columns), alpha)
    expected_weight = layer.weight.detach() + (start.B @ start.A).view_as(layer.weight)
    x = torch.randn(shape)
    adapter.attach(model, {"0": start})
    expected = call(bare(model[0]), expected_weight, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adapter", REAL, ids=str)
def test_contract(adapter):
    model = compress_model(network(), [rule("rtn", "zeros", adapter, 4)], TARGETS)
    names = list(target_layers(model, TARGETS))
    layers = {name: (packed_of(model.get_submodule(name)).shape, 4) for name in names}
    live = adapter.parameters(model, names)
    layout = adapter.layout(layers)
    assert live.keys() == layout.keys()
    for key, slot in layout.items():
        assert live[key].numel() == torch.Size(slot.shape).numel()
        assert slot.part == "adapter"
    assert {id(p) for p in live.values()} == {id(p) for p in trainable(model)}
    bits = sum(adapter.nominal_bits(shape, rank) for shape, rank in layers.values())
    assert bits == 8 * sum(slot.nbytes for slot in layout.values())
    assert all(adapter.macs(shape, rank) > 0 for shape, rank in layers.values())


@pytest.mark.parametrize("adapter", REAL, ids=str)
def test_restore_gives_the_same_model(adapter):
    torch.manual_seed(0)
    model = compress_model(network(), [rule("rtn", "residual", adapter, 4, 8.0)], TARGETS)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
    finalize(model)
    names = model.compression.layers
    other = compress_model(network(), [rule("rtn")], TARGETS)
    ranks = {name: (entry.rank, entry.alpha) for name, entry in names.items()}
    adapter.restore(other, ranks, adapter.parameters(model, names))
    assert torch.equal(other(inputs()), model(inputs()))


@pytest.mark.parametrize("adapter", REAL, ids=str)
@pytest.mark.parametrize("init", ["zeros", "residual"])
def test_every_adapter_tensor_learns_and_nothing_else_moves(adapter, init):
    model = compress_model(
        network(), [rule("int1", init, adapter, 2)], TARGETS, generator=generator()
    )
    before = copy.deepcopy(model.state_dict())
    ours = {id(p) for p in trainable(model)}
    mine = {name for name, p in model.named_parameters() if id(p) in ours}
    optimizer = torch.optim.Adam(trainable(model), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs()), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == mine
    assert all(torch.isfinite(p).all() for p in trainable(model))


def test_dora_takes_all_zero_rows():
    model = nn.Sequential(nn.Linear(6, 4))
    with torch.no_grad():
        model[0].weight[1:3] = 0
    x = torch.randn(5, 6)
    expected = model(x).detach()
    compress_model(model, [rule("none", "zeros", "dora", 2)], TARGETS)
    torch.testing.assert_close(model(x), expected)
    model(x).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in trainable(model))


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("odd", [{"groups": 2}, {"dilation": 2}, {"padding_mode": "circular"}])
def test_convolutions_that_peft_cannot_take_are_refused_by_name(adapter, odd):
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, **odd))
    with pytest.raises(InvalidSetting, match=rf"0: .*{next(iter(odd))}"):
        compress_model(model, [rule("int1", "zeros", adapter, 2)], TARGETS)


def test_names_that_end_alike_get_their_own_rank():
    inner = nn.ModuleDict({"fc": nn.Linear(8, 8)})
    model = nn.ModuleDict({"fc": nn.Linear(8, 8), "block": inner})
    rules = [
        rule("rtn", adapter="lora", rank=2, pattern="fc"),
        rule("rtn", adapter="lora", rank=5, pattern="block.fc"),
    ]
    compress_model(model, rules, TARGETS)
    parameters = ADAPTERS.build("lora").parameters(model, ["fc", "block.fc"])
    assert parameters["fc.lora_A"].shape == (2, 8)
    assert parameters["block.fc.lora_A"].shape == (5, 8)


def test_different_adapters_on_different_layers_all_train():
    rules = [
        rule("rtn", adapter="lora", rank=2, pattern="0"),
        rule("int1", adapter="dora", rank=2, pattern="3"),
        rule("svd", adapter=ADAPTERS.build("lora", {"dtype": "float16"}), rank=2, pattern="6"),
    ]
    model = compress_model(network(), rules, TARGETS)
    assert len(trainable(model)) == 2 + 3 + 2
    model(inputs()).square().sum().backward()
    assert all(p.grad is not None for p in trainable(model))


def test_attaching_leaves_torch_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    model = nn.Sequential(nn.Linear(4, 4))
    torch.manual_seed(3)
    compress_model(model, [rule("rtn", adapter="lora", rank=2)], TARGETS, generator=generator())
    assert torch.equal(torch.rand(1), expected)


def test_as_saved_rounds_within_the_block_only():
    half = ADAPTERS.build("lora", {"dtype": "bfloat16"})
    model = compress_model(network(), [rule("rtn", "residual", half, 3)], TARGETS)
    exact, raw = [p.detach().clone() for p in trainable(model)], model(inputs())
    with as_saved(model):
        rounded = model(inputs())
    assert all(torch.equal(p, q) for p, q in zip(trainable(model), exact, strict=True))
    assert torch.equal(model(inputs()), raw)
    assert not torch.equal(rounded, raw)
    assert torch.equal(finalize(model)(inputs()), rounded)
