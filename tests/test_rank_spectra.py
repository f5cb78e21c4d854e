"""Ranks by spectra and by order: cuttlefish, maestro."""

import pytest
import torch
from networks import adapted
from rank_training import (
    INPUT,
    LR,
    acting_of,
    live,
    one_layer,
    train,
)
from torch import nn

from compression.acting import Moment
from compression.adapters import ADAPTERS, AdapterStart
from compression.adapters.ranks.cuttlefish import factor, spectrum, stable_rank
from compression.adapters.ranks.maestro import leave, prefix, tail_norms
from compression.model import trainable


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
