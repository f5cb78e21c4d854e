"""The contract of every adapter on Linear and Conv2d, dense and compressed."""

import copy

import pytest
import torch
from networks import (
    TARGETS,
    adapted,
    generator,
    inputs,
    layer_stats,
    network,
    rule,
    variants,
    wide_network,
)
from torch import nn
from torch.nn import functional as F

from compression.acting import Moment
from compression.adapters import ADAPTERS, AdapterStart
from compression.artifact import deserialize, serialize
from compression.kinds import bare
from compression.methods import METHODS
from compression.methods.structured.structural import Structural
from compression.model import (
    adapter_tensors,
    as_saved,
    compress_model,
    finalize,
    trainable,
    trained_rest,
)
from compression.registry import InvalidSetting
from compression.rules import shapes
from compression.size import measure

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
@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if ADAPTERS[a].takes_delta])
def test_starts_as_base_plus_delta_whatever_alpha(adapter, method, kind, alpha):
    adapter, (make, shape) = ADAPTERS.build(adapter), LAYERS[kind]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    if kind.partition(" ")[0].replace("conv", "conv2d") not in adapter.kinds:
        with pytest.raises(
            InvalidSetting, match=f"{adapter.name} cannot take '0', a layer of type"
        ):
            compress_model(model, [rule(method, adapter=adapter, rank=2)], TARGETS)
        return
    assert not list(adapter.refusals({"0": model[0]}, 2))
    compress_model(model, [rule(method)], TARGETS)
    layer = model[0]
    rows, columns, rank = layer.weight.shape[0], layer.weight[0].numel(), 2
    delta = torch.randn(rows, rank), torch.randn(rank, columns)
    expected_weight = layer.weight.detach() + (delta[0] @ delta[1]).view_as(layer.weight)
    x = torch.randn(shape)
    adapter.attach(model, {"0": AdapterStart(rank, alpha, *delta, layer.weight.detach())})
    expected = call(bare(model[0]), expected_weight, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["int1", "block_sparse", "svd"])
@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if not ADAPTERS[a].takes_delta])
def test_starts_at_the_base_as_it_is(adapter, method):
    adapter = ADAPTERS.build(adapter)
    pattern = "*" if "conv2d" in adapter.kinds else "[58]*"
    model = adapted(adapter, method, "zeros")
    method = next(iter(model.compression.layers.values())).method.name
    base = compress_model(wide_network(), [rule(method, pattern=pattern)], [pattern])
    torch.testing.assert_close(model(inputs()), base(inputs()), rtol=1e-4, atol=1e-4)


def classified(model):
    """A loss of :func:`inputs`."""
    return F.cross_entropy(model(inputs()), torch.tensor([0, 1, 2, 3]))


def learn(model, adapter, steps=3, loss_of=classified, optimizer=None):
    """Some steps as a recipe makes them, on the same inputs."""
    acting = [
        found
        for a, entries in model.compression.adapted().items()
        if (found := a.acting(model, list(entries), seed=0))
    ]
    optimizer = optimizer or torch.optim.Adam(trainable(model), lr=1e-2)
    for step in range(steps):
        moment = Moment(step, steps, 1e-2)
        for one in acting:
            one.before_step(moment)
        optimizer.zero_grad()
        loss = loss_of(model)
        penalties = [p for one in acting if (p := one.penalty()) is not None]
        sum([loss, *penalties]).backward()
        for one in acting:
            one.after_backward(moment)
        optimizer.step()
        for one in acting:
            one.after_step(moment)
    return model


@pytest.mark.parametrize("adapter", REAL, ids=str)
def test_contract(adapter):
    model = adapted(adapter)
    entries = model.compression.adapted()[adapter]
    sizes = shapes(model, entries)
    live, layout = adapter.parameters(model, entries), adapter.layout(sizes)
    if not adapter.merges:
        assert live.keys() >= layout.keys()
    for key, slot in layout.items():
        assert live[key].numel() == torch.Size(slot.shape).numel()
        assert slot.part == "adapter"
    moved = {id(p) for p in live.values()} | {id(p) for p in trained_rest(model).values()}
    assert {id(p) for p in trainable(model)} <= moved
    assert trainable(model)
    bits = adapter.nominal_bits(sizes)
    assert 0 <= bits <= 8 * sum(slot.nbytes for slot in layout.values())
    assert all(adapter.macs(shape, rank) >= 0 for shape, rank in sizes.values())


def test_no_adapter_names_its_tensors_as_a_method_does():
    shape = (64, 64)
    taken = {"weight", "bias"}
    for method in METHODS:
        plugin = METHODS.build(method)
        if not isinstance(plugin, Structural):
            stats = layer_stats(shape)
            taken |= set(plugin.compress(torch.randn(shape), stats).state())
    for adapter in REAL:
        layout = adapter.layout({"0": (shape, 16 if adapter.ranked else 0)})
        assert not {key.partition(".")[2] for key in layout} & taken, adapter


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if a != "none"])
def test_a_trained_adapter_comes_back_from_its_file_bit_by_bit(adapter, dtype):
    knobs = ADAPTERS[adapter].knobs()
    adapter = ADAPTERS.build(adapter, {"dtype": dtype} if "dtype" in knobs else {})
    model = learn(adapted(adapter), adapter)
    with as_saved(model):
        data, expected = serialize(model), model(inputs())
        assert sum(measure(model, TARGETS).model.values()) == len(data)
    again = deserialize(data, wide_network(seed=9))
    assert torch.equal(again(inputs()), expected)
    assert serialize(again) == data
    if any(entry.adapted for entry in again.compression.layers.values()):
        plain = deserialize(data, wide_network())
        assert not torch.equal(plain(inputs()), wide_network()(inputs()))


@pytest.mark.parametrize("adapter", REAL, ids=str)
def test_what_is_trained_learns_and_nothing_else_moves(adapter):
    model = adapted(adapter, "int1")
    before = copy.deepcopy(model.state_dict())
    live = {tensor.data_ptr() for tensor in [*adapter_tensors(model), *trainable(model)]}
    start = model(inputs()).detach()
    learn(model, adapter)
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in live:
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(model(inputs()), start)
    assert all(torch.isfinite(p).all() for p in trainable(model))


@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if a != "none"])
def test_equal_generators_make_equal_adapters(adapter):
    first, second = (adapted(ADAPTERS.build(adapter)) for _ in range(2))
    torch.rand(3)
    for one, other in zip(adapter_tensors(first), adapter_tensors(second), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if a != "none"])
def test_layers_that_an_adapter_cannot_take_are_refused_by_name(adapter):
    adapter = ADAPTERS.build(adapter)
    layer = nn.Conv2d(4, 4, 3) if "conv2d" not in adapter.kinds else nn.Conv1d(4, 4, 3)
    refused = list(adapter.refusals({"there": layer}, 2))
    assert refused
    assert all("there" in text and adapter.name in text for text in refused)


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
