"""A layer whose ranks come and go, and the plain LoRA that its file holds."""

import pytest
import torch
from networks import adapted, inputs, wide_network
from rank_training import (
    GATED,
    INPUT,
    acting_of,
    live,
    one_layer,
    train,
    trained,
)
from torch import nn
from torch.nn import functional as F

from compression.adapters import ADAPTERS
from compression.adapters.ranks.allocation import renew
from compression.adapters.ranks.gated import gated_layers
from compression.artifact import deserialize, serialize
from compression.model import as_saved, finalize
from compression.stored import as_shipped, shipped


@pytest.mark.parametrize("kind", INPUT)
def test_the_layer_is_its_base_plus_its_delta(kind):
    layer, x = one_layer(kind=kind), torch.randn(INPUT[kind])
    layer.live[1] = 0
    base = layer.base_layer
    weight = base.weight + layer.delta().view_as(base.weight)
    if kind == "linear":
        expected = F.linear(x, weight, base.bias)
    else:
        expected = F.conv2d(x, weight, base.bias, base.stride, base.padding)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    layer._disable_adapters = True
    assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize("kind", INPUT)
def test_ranks_with_a_closed_gate_or_no_a_are_dropped_without_effect(kind):
    layer, x = one_layer(kind=kind), torch.randn(INPUT[kind])
    with torch.no_grad():
        layer.gate[2] = 0
        layer.lora_A[4] = 0
    before = layer(x)
    layer.settle()
    assert layer.index().tolist() == [0, 1, 3]
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-5)
    assert (layer.gate == 1).all()
    assert layer.scale == 1
    again = layer(x)
    layer.settle()
    assert torch.equal(layer(x), again)


def test_the_live_ranks_follow_changes_through_views_and_back():
    layer = one_layer()
    before = layer.live.clone()
    assert len(layer.index()) == 5
    layer.live.detach()[2:] = 0
    assert layer.index().tolist() == [0, 1]
    layer.live.detach().copy_(before)
    assert len(layer.index()) == 5


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("kind", INPUT)
def test_a_new_rank_leaves_the_output_unchanged_and_learns(kind, gated):
    layer, x = one_layer(kind=kind), torch.randn(INPUT[kind])
    layer.live[3] = 0
    before = layer(x).detach()
    renew(layer, 3, torch.Generator().manual_seed(0), gated)
    assert layer.live[3] == 1
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-5)
    (layer(x) * torch.randn_like(before)).sum().backward()
    moved = layer.gate.grad[3] if gated else layer.lora_B.grad[:, 3]
    assert moved.abs().max() > 0


def test_gate_gradients_are_those_of_the_gates():
    layer = one_layer()
    layer.live[1] = 0
    layer(torch.randn(7, 12)).square().sum().backward()
    expected = layer.gate.detach() * layer.gate.grad
    torch.testing.assert_close(layer.gate_gradient(), expected, rtol=1e-4, atol=1e-3)
    assert layer.gate_gradient()[1] == 0


def test_layers_with_and_without_gates_are_told_apart():
    with pytest.raises(TypeError, match="no ranks with gates"):
        gated_layers(nn.Sequential(nn.Linear(2, 2)), ["0"])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", GATED)
def test_a_file_holds_plain_lora_of_the_live_ranks_bit_by_bit(name, dtype):
    adapter = ADAPTERS.build(name, {"dtype": dtype})
    model = adapted(adapter, rank=6, alpha=7.3)
    acting, layers = acting_of(model, adapter)
    train(model, acting, 12)
    some = next(iter(layers.values()))
    some.live[1:3] = 0
    with as_saved(model):
        expected, data = model(inputs()), serialize(model)
        counts = live(layers)
    again = deserialize(data, wide_network(seed=9))
    assert torch.equal(again(inputs()), expected)
    for layer, entry in again.compression.layers.items():
        if counts[layer]:
            assert entry.adapter == ADAPTERS.build("lora", {"dtype": dtype})
            assert entry.rank == counts[layer]
    assert serialize(again) == data


@pytest.mark.parametrize("name", GATED)
def test_as_saved_gives_back_ranks_gates_and_scale(name):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter, alpha=3.0)
    acting, _ = acting_of(model, adapter)
    train(model, acting, 5)
    before, out = serialize_state(model), model(inputs())
    with as_saved(model):
        pass
    after = serialize_state(model)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(model(inputs()), out)


def serialize_state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", GATED)
def test_what_is_stored_unsettled_is_what_it_would_be_settled(name):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter, alpha=5.0)
    acting, layers = acting_of(model, adapter)
    train(model, acting, 6)
    before = adapter.stored(model, layers), shipped(model)
    finalize(model)
    after = adapter.stored(model, layers), shipped(model)
    assert before[1] == after[1]
    assert all(torch.equal(after[0][key], value) for key, value in before[0].items())


def test_a_layer_without_ranks_ships_no_adapter():
    model, _, layers = trained("sora", l1=0.0)
    name = list(layers)[1]
    with torch.no_grad():
        layers[name].gate.zero_()
    with as_saved(model):
        entries = as_shipped(model).layers
        data, expected = serialize(model), model(inputs())
    assert not entries[name].adapted
    assert entries[name].rank == 0
    assert torch.equal(deserialize(data, wide_network())(inputs()), expected)


@pytest.mark.parametrize("odd", [{"groups": 2}, {"dilation": 2}, {"padding_mode": "circular"}])
@pytest.mark.parametrize("name", GATED)
def test_convolutions_that_lora_cannot_store_are_refused_by_name(name, odd):
    layer = nn.Conv2d(4, 4, 3, padding=1, **odd)
    (text,) = ADAPTERS.build(name).refusals({"there": layer}, 2)
    assert "there" in text
    assert next(iter(odd)) in text
