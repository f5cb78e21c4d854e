"""The contract of every optimizer."""

import math

import pytest
import torch
from torch import nn

from trainables.checkpoint import State, flatten, unflatten
from trainables.optimizers import OPTIMIZERS

SHAPES = {
    "vector": [(5,)],
    "matrix": [(4, 6)],
    "kernel": [(3, 2, 3, 3)],
    "all": [(4, 6), (5,), (3, 2, 3, 3), (6, 2), ()],
}


def params(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def loss(params):
    """A quadratic whose least value is 0, at 3 everywhere."""
    return sum(((p - 3.0) ** 2).sum() for p in params)


def middle(name):
    """The learning rate in the middle of the optimizer's own range."""
    bounds = OPTIMIZERS[name].lr
    if bounds.log:
        return math.sqrt(bounds.low * bounds.high)
    return (bounds.low + bounds.high) / 2


def train(optimizer, params, steps):
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss(params).backward()
        optimizer.step()


def copies(params):
    return [p.detach().clone() for p in params]


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_lowers_a_quadratic_and_moves_every_parameter(name, shapes):
    ours = params(shapes)
    before, start = loss(ours).item(), copies(ours)
    train(OPTIMIZERS.build(name).build(ours, middle(name)), ours, 1)
    assert loss(ours).item() < before
    assert all(not torch.equal(p, old) for p, old in zip(ours, start, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_in_one_group(name):
    ours = params(SHAPES["all"])
    optimizer = OPTIMIZERS.build(name).build(ours, 0.01)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in ours}
    assert len(held) == len(ours)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_state_goes_on_bitwise(name, shapes):
    def start():
        ours = params(shapes)
        return ours, OPTIMIZERS.build(name).build(ours, middle(name))

    straight, optimizer = start()
    train(optimizer, straight, 3)
    at, saved = copies(straight), State.from_bytes(flatten(optimizer.state_dict()).to_bytes())
    train(optimizer, straight, 3)

    resumed, optimizer = start()
    for p, value in zip(resumed, at, strict=True):
        p.data.copy_(value)
    optimizer.load_state_dict(unflatten(saved))
    train(optimizer, resumed, 3)
    assert all(map(torch.equal, resumed, straight))


@pytest.mark.parametrize("restored", [False, True], ids=["fresh", "restored"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_set_through_the_groups_takes_effect(name, restored):
    ours = params(SHAPES["all"])
    optimizer = OPTIMIZERS.build(name).build(ours, middle(name))
    if restored:
        optimizer.load_state_dict(unflatten(flatten(optimizer.state_dict())))
    start = copies(ours)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(optimizer, ours, 1)
    assert all(map(torch.equal, ours, start))
    for group in optimizer.param_groups:
        group["lr"] = middle(name)
    train(optimizer, ours, 1)
    assert all(not torch.equal(p, old) for p, old in zip(ours, start, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_cleared(name):
    ours = params(SHAPES["all"])
    optimizer = OPTIMIZERS.build(name).build(ours, 0.01)
    loss(ours).backward()
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in ours)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_range_of_learning_rates_is_a_range(name):
    bounds = OPTIMIZERS[name].lr
    assert 0 < bounds.low < bounds.high


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adamw():
    matrix, vector = params([(6, 6), (5,)])
    twin = nn.Parameter(vector.detach().clone())
    optimizer = OPTIMIZERS.build("muon").build([matrix, vector], 0.01)
    adamw = torch.optim.AdamW([twin], lr=0.01, weight_decay=0.0)
    before = matrix.detach().clone()
    for p in (matrix, vector, twin):
        p.grad = (p.detach() - 3.0).clone()
    optimizer.step()
    adamw.step()
    assert torch.equal(vector, twin)
    # Its Newton-Schulz iteration brings singular values near 1, not to 1.
    values = torch.linalg.svdvals(before - matrix.detach())
    assert values.max() / values.min() < 3
