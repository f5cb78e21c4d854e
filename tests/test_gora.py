"""GoRA's first move."""

import pytest
import torch
from rank_training import (
    INPUT,
)
from torch import nn

from compression.acting import Moment
from compression.adapters import ADAPTERS, AdapterStart
from compression.model import trainable


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


def gora(optimizer=torch.optim.AdamW, **knobs):
    """A layer under GoRA, its factors, what acts on it and an optimizer that decays weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9))
    adapter = ADAPTERS.build("gora", knobs)
    adapter.attach(model, {"0": AdapterStart(3, 7.5)})
    (pair,) = adapter.pairs(model, ["0"])
    with torch.no_grad():
        pair.B.normal_()
    acting = adapter.acting(model, ["0"], seed=0)
    return model, pair, acting, optimizer(model.parameters(), lr=0.1, weight_decay=0.5)


def step(model, acting, optimizer, number, steps=8, x=None):
    moment, x = Moment(number, steps, 0.1), torch.randn(7, 12) if x is None else x
    acting.before_step(moment)
    optimizer.zero_grad()
    model(x).square().mean().backward()
    acting.after_backward(moment)
    optimizer.step()
    acting.after_step(moment)


def test_weight_decay_moves_nothing_before_goras_first_move():
    model, pair, acting, optimizer = gora(grad_share=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for number in range(3):
        step(model, acting, optimizer, number)
        assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
        assert acting.renewals == 0
    step(model, acting, optimizer, 3)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"0.lora_B.default.weight"}
    assert acting.renewals == 1
    step(model, acting, optimizer, 4)
    assert not torch.equal(pair.A, before["0.lora_A.default.weight"])


def test_goras_mean_is_over_the_steps_that_had_a_gradient():
    moved = []
    for absent in ((), (0, 2, 3)):
        model, pair, acting, optimizer = gora(grad_share=0.5)
        x = torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
        for number in range(4):
            model[0]._disable_adapters = number in absent
            step(model, acting, optimizer, number, x=x)
        moved.append(pair.B.detach().clone())
    torch.testing.assert_close(*moved)


def test_goras_layer_that_had_no_gradient_does_not_move():
    model, pair, acting, optimizer = gora(grad_share=0.5)
    before = pair.B.detach().clone()
    model[0]._disable_adapters = True
    for number in range(4):
        step(model, acting, optimizer, number)
    assert torch.equal(pair.B, before)
