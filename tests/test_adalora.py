"""AdaLoRA's budget and importance; training norms alone."""

import copy

import pytest
import torch
from networks import adapted, inputs, network, rule, wide_network
from torch import nn
from torch.nn import functional as F

from compression.acting import Moment
from compression.adapters import ADAPTERS
from compression.adapters.ranks.gated import gated_layers
from compression.artifact import deserialize, serialize
from compression.model import as_saved, compress_model, trainable, trained_rest
from compression.registry import InvalidSetting
from compression.size import measure

STEPS = 40


def start(**knobs):
    """A model under AdaLoRA, its layers, and what acts on them."""
    adapter = ADAPTERS.build("adalora", knobs)
    model = adapted(adapter, init="zeros")
    layers = gated_layers(model, model.compression.adapted()[adapter])
    return model, layers, adapter.acting(model, layers, seed=0)


def train(model, acting, steps, after=lambda step: None, first=0):
    optimizer = torch.optim.SGD(trainable(model), lr=0.05)
    for step in range(first, steps):
        moment = Moment(step, STEPS, 0.05)
        acting.before_step(moment)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs()), torch.tensor([0, 1, 2, 3]))
        penalty = acting.penalty()
        (loss if penalty is None else loss + penalty).backward()
        acting.after_backward(moment)
        optimizer.step()
        acting.after_step(moment)
        after(step)


def live(layers):
    return sum(int((layer.gate * layer.live != 0).sum()) for layer in layers.values())


def test_the_budget_falls_with_the_cube_to_the_mean_rank():
    model, layers, acting = start(start_factor=2.0, warmup=0.25, until=0.75, events=11)
    counts = []
    train(model, acting, STEPS, lambda step: counts.append(live(layers)))
    first, last = 8 * len(layers), 4 * len(layers)
    assert counts[0] == first
    expected = [last + int((first - last) * (1 - k / 11) ** 3) for k in range(1, 12)]
    events = next(i for i in range(STEPS) if acting.shares[0] <= (i + 1) / STEPS)
    assert counts[events] == expected[0]
    # Between events those with l = 0 are trained on; no event leaves more than its budget.
    assert min(counts) == last
    assert counts[-1] == last
    with as_saved(model):
        again = deserialize(serialize(model), wide_network(2))
        assert torch.equal(again(inputs()), model(inputs()))
    ranks = [entry.rank for entry in again.compression.layers.values() if entry.adapted]
    assert sum(ranks) == last
    assert all(
        entry.adapter.name in ("lora", "none") for entry in again.compression.layers.values()
    )


def test_triplets_that_the_loss_does_not_need_go_first():
    model, layers, acting = start(
        start_factor=2.0, warmup=0.5, until=0.5, events=1, orthogonality=0.0
    )
    useless = {name: torch.tensor([1, 3, 4, 6]) for name in layers}

    def silence(step):
        for name, layer in layers.items():
            layer.gate.data[useless[name]] = 0.0
            layer.lora_B.data[:, useless[name]] = 0.0

    silence(0)
    train(model, acting, STEPS, silence)
    for name, layer in layers.items():
        assert not layer.live[useless[name]].any()
        assert layer.live.sum() == 4


def test_importance_is_the_mean_sensitivity_times_its_spread():
    model, layers, acting = start(beta1=0.5, beta2=0.25, orthogonality=0.0)
    name, layer = next(iter(layers.items()))
    mean, spread = 0.0, 0.0
    for value in (1.0, 3.0):
        for parameter in (layer.gate, layer.lora_A, layer.lora_B):
            parameter.grad = value * torch.ones_like(parameter)
        with torch.no_grad():
            layer.gate.fill_(2.0)
        acting.after_backward(Moment(0, STEPS, 0.1))
        now = 2.0 * value
        mean = 0.5 * mean + 0.5 * now
        spread = 0.25 * spread + 0.75 * abs(now - mean)
    gates = acting.means[f"{name}.gate"] * acting.spreads[f"{name}.gate"]
    torch.testing.assert_close(gates, torch.full_like(gates, mean * spread))
    a = acting.means[f"{name}.lora_A"] * acting.spreads[f"{name}.lora_A"]
    b = acting.means[f"{name}.lora_B"] * acting.spreads[f"{name}.lora_B"]
    expected = gates + a.flatten(1).mean(1) + b.flatten(1).mean(0)
    torch.testing.assert_close(acting.scores(name), expected)


def test_the_penalty_is_0_at_orthonormal_factors_alone():
    _, layers, acting = start(orthogonality=2.0)
    assert acting.penalty() > 0
    with torch.no_grad():
        for layer in layers.values():
            b, a = layer.matrices()
            b.copy_(torch.linalg.qr(torch.randn(b.shape)).Q)
            a.copy_(torch.linalg.qr(torch.randn(a.T.shape)).Q.T)
    assert acting.penalty() < 1e-9


def test_an_inits_delta_goes_into_unit_vectors_and_sizes():
    model = adapted(ADAPTERS.build("adalora", {"start_factor": 1.0}), init="residual")
    plain = adapted(ADAPTERS.build("lora"), init="residual")
    torch.testing.assert_close(model(inputs()), plain(inputs()), rtol=1e-4, atol=1e-5)
    for layer in gated_layers(model, ["5", "8"]).values():
        b, a = layer.matrices()
        assert torch.allclose(b.norm(dim=0), torch.ones(4), atol=1e-5)
        torch.testing.assert_close(a @ a.T, torch.eye(4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stop", [3, 15, 30])
def test_a_budget_goes_on_from_its_state(stop):
    whole, _, acting = start()
    train(whole, acting, STEPS)
    model, _, first = start()
    train(model, first, stop)
    state = copy.deepcopy(first.state())
    again, layers, second = start()
    again.load_state_dict(model.state_dict())
    second.restore(state)
    train(again, second, STEPS, first=stop)
    assert torch.equal(again(inputs()), whole(inputs()))


def test_norms_are_trained_in_place_and_the_dense_model_keeps_its_own():
    dense = wide_network()
    before = copy.deepcopy(dense.state_dict())
    model = copy.deepcopy(dense)
    for i in (1, 6):  # as one model's tensors may be another's, too
        model[i].weight, model[i].bias = dense[i].weight, dense[i].bias
    model = adapted(ADAPTERS.build("ln_tuning"), "int1", model=model)
    names = set(trained_rest(model))
    assert names == {f"{i}.{p}" for i in (1, 6) for p in ("weight", "bias")}
    optimizer = torch.optim.SGD(trainable(model), lr=0.1)
    model(inputs()).square().sum().backward()
    optimizer.step()
    changed = {
        key
        for key, value in model.state_dict().items()
        if key in before and not torch.equal(value, before[key])
    }
    assert changed == names
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())


def test_norms_cost_no_byte():
    model = adapted(ADAPTERS.build("ln_tuning"), "int1")
    plain = compress_model(wide_network(), [rule("int1")], ["*"])
    ours, theirs = measure(model, ["*"]).model, measure(plain, ["*"]).model
    assert ours["adapter"] == 0
    assert {k: v for k, v in ours.items() if k != "header"} == {
        k: v for k, v in theirs.items() if k != "header"
    }


def test_parameters_that_two_norms_share_stay_shared():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8))
    model[3].weight = model[1].weight
    old = model[1].weight
    compress_model(model, [rule("rtn", adapter="ln_tuning")], ["*"])
    assert model[3].weight is model[1].weight
    assert model[1].weight is not old
    assert model[3].bias is not model[1].bias


def test_statistics_of_batch_norm_stay_frozen():
    model = adapted(ADAPTERS.build("ln_tuning"))
    mean = model[1].running_mean.clone()
    model(inputs()).sum().backward()
    assert torch.equal(model[1].running_mean, mean)
    assert not model[1].running_mean.requires_grad


def test_a_model_without_norms_is_refused():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, elementwise_affine=False))
    with pytest.raises(InvalidSetting, match="ln_tuning: .* no norms"):
        compress_model(model, [rule("rtn", adapter="ln_tuning")], ["*"])
    rules = [rule("rtn", adapter="ln_tuning")]
    assert compress_model(network(), rules, ["*"]).compression.adapted()
