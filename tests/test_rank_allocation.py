"""Adapters that give each layer its own rank: what each promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import adapted, inputs, layer_stats, rule, wide_network
from torch import nn
from torch.nn import functional as F

from compression.acting import Moment
from compression.adapters import ADAPTERS, AdapterStart
from compression.adapters.allocation import Allocating, Scheduled, renew
from compression.adapters.cuttlefish import factor, spectrum, stable_rank
from compression.adapters.gated import Gated, GatedLayer, gated_layers
from compression.adapters.maestro import leave, prefix, tail_norms
from compression.adapters.shares import allot
from compression.artifact import deserialize, serialize
from compression.methods.base import matrix_shape
from compression.model import as_saved, compress_model, finalize, trainable
from compression.registry import InvalidSetting
from compression.stored import as_shipped, shipped

GATED = [name for name in ADAPTERS if issubclass(ADAPTERS[name], Gated)]
MOVING = [name for name in GATED if issubclass(ADAPTERS[name], Scheduled)]
# Those whose ranks end at a sum that is asked for.
BUDGETED = ["dora_dynamic", "incre_lora", "elalora", "alora"]
SET_UP = ["gora", "colora"]
LR = 1e-2


def acting_of(model, adapter):
    names = list(model.compression.adapted()[adapter])
    return adapter.acting(model, names, seed=3), gated_or_none(model, names)


def gated_or_none(model, names):
    layers = {name: model.get_submodule(name) for name in names}
    return layers if all(isinstance(m, GatedLayer) for m in layers.values()) else {}


def train(model, acting, steps, start=0, optimizer=None, total=None, watch=None):
    """Some steps as a recipe makes them."""
    optimizer = optimizer or torch.optim.Adam(trainable(model), lr=LR)
    for step in range(start, start + steps):
        moment = Moment(step, total or steps, LR)
        acting.before_step(moment)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs()), torch.tensor([0, 1, 2, 3]))
        penalty = acting.penalty()
        (loss if penalty is None else loss + penalty).backward()
        acting.after_backward(moment)
        optimizer.step()
        acting.after_step(moment)
        if watch:
            watch(moment)
    return optimizer


def trained(name, steps=20, **knobs):
    adapter = ADAPTERS.build(name, knobs)
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    train(model, acting, steps)
    return model, acting, layers


def live(layers):
    return {name: len(layer.index()) for name, layer in layers.items()}


def shook(layer):
    """Random factors and gates, as after some training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (layer.lora_A, layer.lora_B, layer.gate):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return layer


def one_layer(most=5, kind="linear", scale=1.5):
    torch.manual_seed(0)
    base = nn.Linear(12, 9) if kind == "linear" else nn.Conv2d(4, 6, 3, padding=1, stride=2)
    return shook(GatedLayer(base.requires_grad_(False), most, scale, trained_gate=True))


INPUT = {"linear": (7, 12), "conv": (2, 4, 8, 8)}


# The layer.


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


# The file.


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


# Budgets and events.


@pytest.mark.parametrize("steps", [3, 17, 60])
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("name", BUDGETED)
def test_the_ranks_end_at_the_sum_that_was_asked_for(name, rank, steps):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter, rank=rank)
    acting, layers = acting_of(model, adapter)
    seen = []
    train(
        model,
        acting,
        steps,
        watch=lambda moment: seen.append((acting.settled(moment), live(layers))),
    )
    budget = rank * len(layers)
    assert sum(live(layers).values()) == budget
    assert seen[-1][0]
    final = [ranks for settled, ranks in seen if settled]
    assert all(ranks == final[0] for ranks in final)
    with as_saved(model):
        assert sum(found.rank for found in shipped(model).values()) <= budget


@pytest.mark.parametrize("name", ["elalora", "alora"])
def test_exchanges_keep_the_sum_at_every_step_and_move_ranks(name):
    adapter = ADAPTERS.build(name, {"swap": 0.4})
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    sums, spreads = set(), set()

    def watch(moment):
        sums.add(sum(live(layers).values()))
        spreads.add(tuple(live(layers).values()))

    train(model, acting, 30, watch=watch)
    assert sums == {4 * len(layers)}
    assert len(spreads) > 1


@pytest.mark.parametrize(("name", "order"), [("dora_dynamic", -1), ("incre_lora", 1)])
def test_dynamic_dora_shrinks_and_incre_lora_grows(name, order):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    sums = [sum(live(layers).values())]
    train(model, acting, 30, watch=lambda m: sums.append(sum(live(layers).values())))
    assert sums == sorted(sums, key=lambda total: order * total)
    assert sums[0] != sums[-1]


@pytest.mark.parametrize("name", ["incre_lora", "elalora", "alora"])
def test_growing_leaves_the_output_unchanged(name):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    train(model, acting, 2, total=100)
    for layer in layers.values():
        layer.live[0] = 0
    before = model(inputs()).detach()
    acting.grow(list(layers), 2 * len(layers), gated=adapter.trained_gate)
    torch.testing.assert_close(model(inputs()), before)


def test_the_lowest_scores_go_and_each_layer_keeps_its_least():
    model, acting, layers = trained(
        "dora_dynamic", steps=2, warmup=0.9, until=0.9, start_factor=2.0
    )
    assert isinstance(acting, Allocating)
    for name, layer in layers.items():
        layer.live.fill_(1)
        acting.ages[name].fill_(10_000)
        acting.means[name].copy_(torch.rand(layer.most))
    first, *others = layers
    acting.means[first].mul_(1e-6)
    total = sum(layer.most for layer in layers.values())
    acting.keep(total - layers[first].most, 2)
    assert live(layers)[first] == 2
    assert sum(live(layers).values()) == total - layers[first].most
    kept = torch.cat([acting.means[n][layers[n].live == 1] for n in others])
    gone = torch.cat([acting.means[n][layers[n].live == 0] for n in others])
    assert gone.max() <= kept.min()


@pytest.mark.parametrize("name", [*GATED, "prilora", "gora"])
def test_training_goes_on_from_a_state_as_if_undisturbed(name):
    adapter = ADAPTERS.build(name)
    whole, parts = adapted(adapter), adapted(adapter)
    train(whole, acting_of(whole, adapter)[0], 16, total=16)
    acting = acting_of(parts, adapter)[0]
    optimizer = train(parts, acting, 7, total=16)
    state = acting.state()
    again = acting_of(parts, adapter)[0]
    again.restore(state)
    train(parts, again, 9, start=7, optimizer=optimizer, total=16)
    for key, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[key], value), key


def test_events_come_once_in_order_at_their_shares():
    adapter = ADAPTERS.build("elalora", {"warmup": 0.2, "until": 0.8, "events": 4})
    assert adapter.shares() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    model = adapted(adapter)
    acting, _ = acting_of(model, adapter)
    done = []
    train(model, acting, 10, watch=lambda moment: done.append(acting.done))
    assert done == [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    with pytest.raises(InvalidSetting, match="before warmup"):
        ADAPTERS.build("elalora", {"warmup": 0.9})


# One by one.


def test_sora_steps_gates_towards_zero_and_drops_those_that_reach_it():
    model, acting, layers = trained("sora", steps=1)
    layer = next(iter(layers.values()))
    with torch.no_grad():
        layer.gate.copy_(torch.tensor([0.5, -0.5, LR / 2, -LR / 2]))
    acting.after_step(Moment(0, 10, LR))
    expected = torch.tensor([0.5 - LR, -0.5 + LR, 0.0, 0.0])
    torch.testing.assert_close(layer.gate.detach(), expected)
    with as_saved(model):
        assert layer.index().tolist() == [0, 1]
    assert len(layer.index()) == 4


def test_sora_with_a_greater_weight_keeps_fewer_ranks():
    kept = []
    for l1 in (0.0, 3.0, 100.0):
        model, _, _ = trained("sora", steps=30, l1=l1)
        with as_saved(model):
            kept.append(sum(found.rank for found in shipped(model).values()))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1] == 0


def test_dynamic_dora_scores_parts_by_their_share_of_the_delta():
    _, acting, _ = trained("dora_dynamic", steps=1)
    layer = one_layer()
    layer.live[2] = 0
    b, a = layer.matrices()
    parts = [layer.scale * c * torch.outer(b[:, i], a[i]) for i, c in enumerate(layer.gate)]
    whole = sum(part for i, part in enumerate(parts) if i != 2)
    expected = torch.stack([part.norm() / whole.norm() for part in parts]) * layer.live
    torch.testing.assert_close(acting.score(layer), expected)


def test_alora_estimates_what_leaving_a_rank_out_does_to_the_loss():
    _, acting, _ = trained("alora", steps=1)
    layer = one_layer().double()
    x, y = torch.randn(7, 12).double(), torch.randn(7, 9).double()
    with torch.no_grad():
        layer.gate.fill_(1.0)
        layer.lora_B.mul_(1e-6)  # where first order holds

    def loss():
        return (layer(x) - y).square().mean()

    before = loss()
    before.backward()
    for i, score in enumerate(acting.score(layer)):
        layer.live[i] = 0
        raised = loss() - before
        layer.live[i] = 1
        assert float(score) == pytest.approx(float(raised.detach()), rel=1e-3)


def test_alora_gives_to_layers_that_lost_nothing():
    model, acting, layers = trained("alora", steps=2, warmup=0.9, until=0.9, swap=0.25)
    poor, *others = layers
    for name, layer in layers.items():
        acting.ages[name].fill_(10_000)
        acting.means[name].fill_(-1.0 if name == poor else 1.0)
        layer.live.copy_((torch.arange(layer.most) < 4).float())
    acting.event(0)
    assert live(layers)[poor] == 0
    assert sum(live(layers)[name] for name in others) == 4 * len(layers)


def test_incre_lora_grows_where_the_scores_are_highest():
    _, acting, layers = trained("incre_lora", steps=2, warmup=0.9, until=0.9, events=1)
    *_, rich = layers
    for name, layer in layers.items():
        acting.ages[name].fill_(10_000)
        acting.means[name].fill_(2.0 if name == rich else 1.0)
        layer.live.copy_((torch.arange(layer.most) < 1).float())
    acting.grow([rich, *[n for n in layers if n != rich]], 1, gated=True)
    assert live(layers)[rich] == 2
    assert sum(live(layers).values()) == len(layers) + 1


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("steps", [3, 40])
def test_cuttlefish_ends_within_its_budget(rank, steps):
    adapter = ADAPTERS.build("cuttlefish", {"rank_scale": 4.0})
    model = adapted(adapter, rank=rank)
    acting, layers = acting_of(model, adapter)
    train(model, acting, steps)
    assert acting.settled(Moment(steps, steps, LR))
    assert len(layers) <= sum(live(layers).values()) <= rank * len(layers)


@pytest.mark.parametrize("kind", INPUT)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_cuttlefish_switches_to_the_truncated_svd_of_the_delta(kind, rank):
    layer = one_layer(kind=kind)
    layer.live[1] = 0
    delta = layer.delta().detach()
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    torch.testing.assert_close(spectrum(layer)[1].float(), s[:5], rtol=1e-4, atol=1e-4)
    assert stable_rank(s) == pytest.approx(float(delta.norm() ** 2 / s[0] ** 2), rel=1e-4)
    factor(layer, rank)
    expected = (u[:, :rank] * s[:rank]) @ vh[:rank]
    torch.testing.assert_close(layer.delta().detach(), expected, rtol=1e-4, atol=1e-4)
    b, a = layer.matrices()
    torch.testing.assert_close(b[:, :rank].norm(dim=0), a[:rank].norm(dim=1), rtol=1e-4, atol=1e-4)
    assert len(layer.index()) == rank


def test_cuttlefish_switches_once_stable_ranks_settle():
    adapter = ADAPTERS.build("cuttlefish", {"events": 10, "warmup": 0.1, "until": 0.9})
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    wide = live(layers)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B.normal_()
    acting.after_step(Moment(0, 10, LR))
    assert live(layers) == wide
    acting.after_step(Moment(1, 10, LR))  # nothing has moved since
    assert acting.settled(Moment(2, 10, LR))
    assert live(layers) != wide


@pytest.mark.parametrize("at_once", ["one", "all"])
def test_maestro_trains_prefixes_and_is_whole_between_steps(at_once):
    adapter = ADAPTERS.build("maestro", {"at_once": at_once, "warmup": 1.0, "until": 1.0})
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    cut = []
    for step in range(40):
        acting.before_step(Moment(step, 1000, LR))
        for layer in layers.values():
            assert layer.index().tolist() == list(range(len(layer.index())))
        cut.append([layer.most - len(layer.index()) for layer in layers.values()])
        acting.after_step(Moment(step, 1000, LR))
        assert all(len(layer.index()) == layer.most for layer in layers.values())
    drawn = torch.tensor(cut)
    assert (drawn.max(0).values > 0).all()
    assert (drawn.min(0).values == 0).all()
    if at_once == "one":
        assert ((drawn > 0).sum(1) <= 1).all()


def test_maestro_learns_the_svd_of_a_linear_map():
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(7, 7))
    target = (u * torch.tensor([4.0, 2.0, 1.0, 0.1, 0.05, 0.02, 0.01])) @ vh
    model = nn.Sequential(nn.Linear(7, 7, bias=False))
    with torch.no_grad():
        model[0].weight.zero_()
    knobs = {"group_lasso": 0.0, "warmup": 1.0, "until": 1.0}
    adapter = ADAPTERS.build("maestro", knobs)
    adapter.attach(model, {"0": AdapterStart(3, 3.0)})
    model[0].base_layer.requires_grad_(False)
    acting = adapter.acting(model, ["0"], seed=0)
    optimizer = torch.optim.Adam(trainable(model), lr=0.02)
    steps = 1500
    for step in range(steps):
        moment = Moment(step, 10 * steps, LR)
        acting.before_step(moment)
        optimizer.zero_grad()
        (model(torch.eye(7)).T - target).square().sum().backward()
        optimizer.step()
        acting.after_step(moment)
        if step == steps // 2:
            optimizer.param_groups[0]["lr"] = 0.002
    s = torch.linalg.svdvals(target)
    for rank in (1, 2, 3):
        leave(model[0], rank)
        error = (model[0].delta() - target).square().sum()
        best = s[rank:].square().sum()
        assert best * 0.999 <= error <= best + 0.02 * s[0] ** 2
    with torch.no_grad():
        model[0].lora_A.copy_(model[0].lora_A.flip(0))
        model[0].lora_B.copy_(model[0].lora_B.flip(1))
    leave(model[0], 1)
    assert (model[0].delta() - target).square().sum() > 2 * s[1:].square().sum()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_maestro_cuts_the_longest_tail_below_its_threshold(threshold):
    layer = one_layer(most=6)
    with torch.no_grad():
        layer.gate.fill_(1.0)
        layer.lora_B.mul_(torch.tensor([1.0, 0.8, 0.5, 0.2, 0.1, 0.0]))
    b, a = layer.matrices()
    norms = [(b[:, i:] @ a[i:]).norm() for i in range(7)]
    chosen = prefix(layer, threshold)
    assert norms[chosen] <= threshold * norms[0] * (1 + 1e-5)
    assert all(norm > threshold * norms[0] for norm in norms[:chosen])
    with torch.no_grad():
        layer.lora_B.zero_()
    assert prefix(layer, threshold) == 6


def test_maestros_penalty_is_the_sum_of_tail_norms_and_can_be_followed_from_zero():
    rows = torch.randn(4, 9, requires_grad=True)
    expected = torch.stack([rows[i:].norm() for i in range(4)])
    torch.testing.assert_close(tail_norms(rows), expected, rtol=1e-4, atol=1e-5)
    zero = torch.zeros(3, 5, requires_grad=True)
    tail_norms(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


@given(
    rank=st.integers(1, 9),
    first=st.floats(0, 1),
    layers=st.integers(1, 12),
)
@settings(max_examples=50, deadline=None)
def test_priloras_ranks_are_linear_in_depth_with_the_given_mean(rank, first, layers):
    adapter = ADAPTERS.build("prilora", {"first_factor": first})
    found = list(adapter.ranks(rank, {str(i): (64, 64) for i in range(layers)}, {}).values())
    assert sum(found) == rank * layers
    assert min(found) >= 1
    assert found == sorted(found)
    if layers > 1 and first * rank >= 1:
        exact = torch.linspace(first, 2 - first, layers) * rank
        assert (torch.tensor(found) - exact).abs().max() < 1 + 1e-4


def test_prilora_prunes_what_is_smallest_times_its_input():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Flatten())
    adapter = ADAPTERS.build("prilora", {"beta": 0.0, "prune_share": 0.25, "events": 1})
    adapter.attach(model, {"0": AdapterStart(4, 4.0)})
    acting = adapter.acting(model, ["0"], seed=0)
    x = torch.randn(16, 8) * torch.linspace(0.1, 3, 8)
    acting.before_step(Moment(0, 1, LR))
    model(x)
    acting.after_backward(Moment(0, 1, LR))
    model(100 * x)  # seen between steps, and not heeded
    a = adapter.pairs(model, ["0"])[0].A
    scores = (a.detach().abs() * x.norm(dim=0)).flatten()
    acting.after_step(Moment(0, 1, LR))
    zero = (a == 0).flatten()
    assert zero.sum() == 8
    assert scores[zero].max() <= scores[~zero].min()


@pytest.mark.parametrize("name", ["prilora"])
def test_priloras_zeros_hold_to_the_end(name):
    adapter = ADAPTERS.build(name, {"prune_share": 0.5})
    model = adapted(adapter)
    acting, _ = acting_of(model, adapter)
    train(model, acting, 20)
    for pair in adapter.pairs(model, list(model.compression.adapted()[adapter])):
        assert (pair.A == 0).float().mean() == pytest.approx(0.5, abs=1 / pair.A.numel())


# At set-up.


def weights_and_stats(count=5):
    torch.manual_seed(0)
    shapes = [(16, 24), (8, 40), (32, 32), (12, 4, 3, 3), (24, 16)][:count]
    weights = {str(i): torch.randn(shape) for i, shape in enumerate(shapes)}
    stats = {
        name: layer_stats(tuple(weight.shape), seed=int(name)) for name, weight in weights.items()
    }
    return weights, stats


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("name", SET_UP)
def test_allocated_ranks_cost_no_more_than_the_uniform_one(name, rank):
    weights, stats = weights_and_stats()
    adapter = ADAPTERS.build(name)
    found = adapter.allocate(rank, weights, stats)
    costs = {n: sum(matrix_shape(tuple(w.shape))) for n, w in weights.items()}
    budget = sum(rank * cost for cost in costs.values())
    used = sum(found[n] * costs[n] for n in weights)
    assert budget - max(costs.values()) < used <= budget
    assert list(found) == list(weights)
    for given_rank in found.values():
        assert math.floor(rank / 2) <= given_rank <= 4 * rank
    with pytest.raises(InvalidSetting, match="needs calibration"):
        adapter.allocate(rank, weights, {})


def test_goras_ranks_follow_weight_times_gradient():
    weights, stats = weights_and_stats()
    for factor_ in (1.0, 20.0):
        weights["1"] = weights["1"] / weights["1"].norm() * factor_
        found = ADAPTERS.build("gora").allocate(6, weights, stats)
        importance = {
            n: float((w.flatten(1) * stats[n].gradients.mean).abs().mean())
            for n, w in weights.items()
        }
        order = sorted(weights, key=importance.get)
        ranks = [found[n] for n in order]
        assert all(a <= b + 1 for a, b in zip(ranks, ranks[1:], strict=False))
        assert (order[-1] == "1") is (factor_ > 1)
    assert found["1"] == max(found.values())


def test_coloras_contribution_knows_no_scale_of_the_inputs_and_grows_with_the_gradient():
    from dataclasses import replace

    from compression.adapters.colora import contribution

    weight, stats = torch.randn(9, 12), layer_stats((9, 12))
    x = torch.linalg.cholesky(stats.inputs.pooled().double())
    expected = (stats.gradients.mean.double() @ x).norm() / (weight.double() @ x).norm()
    assert contribution(weight, stats) == pytest.approx(float(expected), rel=1e-4)
    louder = replace(stats.inputs, second_moment=9 * stats.inputs.second_moment)
    assert contribution(weight, replace(stats, inputs=louder)) == pytest.approx(float(expected))
    assert contribution(torch.zeros(9, 12), stats) == 0


@pytest.mark.parametrize("kind", INPUT)
def test_gora_moves_b_along_the_gradient_of_the_weight_and_nothing_else_before(kind):
    torch.manual_seed(0)
    base = nn.Linear(12, 9) if kind == "linear" else nn.Conv2d(4, 6, 3, padding=1, stride=2)
    model, x = nn.Sequential(base), torch.randn(INPUT[kind])
    adapter = ADAPTERS.build("gora", {"grad_share": 0.5, "gamma": 0.1})
    base(x).square().mean().backward()
    gradient = base.weight.grad.flatten(1).clone()
    adapter.attach(model, {"0": AdapterStart(3, 7.5)})
    (pair,) = adapter.pairs(model, ["0"])
    with torch.no_grad():
        pair.B.zero_()
    model[0].base_layer.requires_grad_(False)
    acting = adapter.acting(model, ["0"], seed=0)
    optimizer = torch.optim.Adam(trainable(model), lr=0.1)
    before = pair.A.detach().clone()
    for step in range(2):
        moment = Moment(step, 4, 0.1)
        assert not pair.B.any()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        acting.after_backward(moment)
        optimizer.step()
        acting.after_step(moment)
    a = before.flatten(1)
    assert torch.equal(pair.A.detach().flatten(1), a)
    delta = (pair.scale * pair.B.flatten(1) @ a).detach()
    eta = 0.1 * (a.shape[1] / 3) ** 0.5
    best = -eta * gradient @ torch.linalg.pinv(a) @ a
    torch.testing.assert_close(delta, best, rtol=1e-3, atol=1e-6)
    # The nearest to -eta G: what is missing is orthogonal to the rows of A.
    assert ((-eta * gradient - delta) @ a.T).abs().max() < 1e-4 * (eta * gradient).norm() * a.norm()


@given(
    wanted=st.lists(st.floats(0, 100), min_size=1, max_size=8),
    costs=st.lists(st.integers(1, 50), min_size=8, max_size=8),
    budget=st.integers(0, 2000),
    least=st.integers(0, 3),
    room=st.integers(0, 20),
)
@settings(max_examples=200, deadline=None)
def test_allotted_numbers_keep_bounds_budget_and_order(wanted, costs, budget, least, room):
    names = [str(i) for i in range(len(wanted))]
    wanted, costs = dict(zip(names, wanted, strict=True)), dict(zip(names, costs, strict=False))
    lows, highs = dict.fromkeys(names, least), dict.fromkeys(names, least + room)
    found = allot(wanted, costs, budget, lows, highs)
    assert all(least <= found[n] <= least + room for n in names)
    used = sum(costs[n] * found[n] for n in names)
    assert used <= max(budget, least * sum(costs.values()))
    for one in names:
        for other in names:
            if wanted[one] > wanted[other]:
                assert found[one] >= found[other] - 1


@pytest.mark.parametrize("name", [*GATED, *SET_UP, "prilora"])
def test_each_layer_has_its_own_rank_in_the_file(name):
    adapter = ADAPTERS.build(name)
    model = compress_model(
        wide_network(), [rule("rtn", "zeros", adapter, 4)], ["*"], calibration=calibrated()
    )
    acting, _ = acting_of(model, adapter)
    if acting is not None:
        train(model, acting, 12)
    with as_saved(model):
        ranks = {layer: found.rank for layer, found in shipped(model).items()}
        again = deserialize(serialize(model), wide_network())
        assert torch.equal(again(inputs()), model(inputs()))
    assert {n: entry.rank for n, entry in again.compression.layers.items()} == ranks


def calibrated():
    from networks import calibration

    return calibration()


def test_layers_with_and_without_gates_are_told_apart():
    with pytest.raises(TypeError, match="no ranks with gates"):
        gated_layers(nn.Sequential(nn.Linear(2, 2)), ["0"])
