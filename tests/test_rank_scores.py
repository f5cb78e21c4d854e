"""Which ranks go and which come: sora, dora_dynamic, alora, incre_lora."""

import pytest
import torch
from networks import adapted
from rank_training import LR, acting_of, live, one_layer, train, trained

from compression.acting import Moment
from compression.adapters import ADAPTERS
from compression.adapters.ranks.gated import GatedLayer
from compression.model import as_saved
from compression.stored import shipped


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


def test_dynamic_doras_scores_need_no_dense_delta(monkeypatch):
    _, acting, _ = trained("dora_dynamic", steps=1)
    layer = one_layer()
    expected = acting.score(layer)
    assert expected.max() > 0
    monkeypatch.delattr(GatedLayer, "delta")
    assert torch.equal(acting.score(layer), expected)


@pytest.mark.parametrize("name", ["dora_dynamic", "incre_lora", "elalora", "alora"])
def test_steps_without_a_gradient_leave_a_layers_scores_alone(name):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    train(model, acting, 3, total=100)
    off, *others = layers
    before = acting.means[off].clone()
    layers[off]._disable_adapters = True
    train(model, acting, 2, start=3, total=100)
    assert torch.equal(acting.means[off], before)
    assert (acting.ages[off] == 3).all()
    assert all((acting.ages[other] == 5).all() for other in others)
