"""Low-rank adaptation that switches layers off: what is computed, stored and penalised."""

import pytest
import torch
from networks import adapted, inputs, rule, wide_network
from test_adapters import learn

from compression.acting import Moment
from compression.adapters import ADAPTERS
from compression.artifact import deserialize, serialize
from compression.kinds import bare
from compression.model import as_saved, compress_model
from compression.size import measure

RANK = 4


def selected(off, **knobs):
    adapter = ADAPTERS.build("selective_lora", knobs)
    model = learn(adapted(adapter), adapter)
    with torch.no_grad():
        for name in model.compression.layers:
            own = model.get_submodule(name).own()
            own["lora_B"].normal_()
            own["indicator"].fill_(0.09 if name in off else 0.1)
    return adapter, model


def test_a_layer_that_is_off_is_exactly_its_base_and_stores_nothing():
    _, model = selected({"0", "8"})
    x = torch.randn(7, 32)
    assert torch.equal(model[8](x), bare(model[8])(x))
    with torch.no_grad():
        assert torch.equal(model[8](x), bare(model[8])(x))
    assert not torch.equal(model[5](torch.ones(64)), bare(model[5])(torch.ones(64)))
    with as_saved(model):
        data = serialize(model)
        stored, expected = measure(model, ["*"]), model(inputs())
    again = deserialize(data, wide_network(seed=9))
    adapters = {n: e.adapter.name for n, e in again.compression.layers.items()}
    assert adapters == {"0": "none", "5": "lora", "8": "none", "10": "lora"}
    assert stored.model["adapter"] == 4 * RANK * (64 + 32 + 32 + 16)
    assert torch.equal(again(inputs()), expected)


def test_with_every_layer_off_the_file_is_that_without_an_adapter():
    _, model = selected({"0", "5", "8", "10"})
    plain = compress_model(wide_network(), [rule("rtn")], ["*"])
    with as_saved(model):
        assert serialize(model) == serialize(plain)


def test_the_penalty_is_lambda_times_the_sum_of_the_indicators_until_they_are_decided():
    adapter, model = selected({"0"}, penalty=2.0, decided=0.5)
    acting = adapter.acting(model, list(model.compression.layers), seed=0)
    acting.before_step(Moment(4, 10, 0.1))
    assert float(acting.penalty().detach()) == pytest.approx(2.0 * (0.09 + 3 * 0.1))
    assert not acting.settled(Moment(4, 10, 0.1))
    acting.before_step(Moment(5, 10, 0.1))
    assert acting.penalty() is None
    assert acting.settled(Moment(5, 10, 0.1))
    model(inputs()).square().sum().backward()
    assert model[0].indicator.grad.abs().sum() > 0  # off, and yet it could come back
    acting.after_backward(Moment(5, 10, 0.1))
    assert model[0].indicator.grad is None


def test_a_strong_penalty_switches_layers_off_and_none_leaves_them_on():
    for penalty, on in ((0.0, 4), (100.0, 0)):
        adapter = ADAPTERS.build("selective_lora", {"penalty": penalty, "decided": 1.0})
        model = learn(adapted(adapter), adapter, steps=15)
        found = [adapter.is_on(model.get_submodule(n)) for n in model.compression.layers]
        assert sum(found) == on
