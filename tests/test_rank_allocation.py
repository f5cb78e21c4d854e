"""Ranks that are set before the training: gora, colora, prilora."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import adapted, calibration, inputs, layer_stats, rule, taken, wide_network
from rank_training import (
    GATED,
    LR,
    acting_of,
    train,
)
from torch import nn

from compression.acting import Moment
from compression.adapters import ADAPTERS, AdapterStart
from compression.adapters.ranks.shares import allot
from compression.artifact import deserialize, serialize
from compression.methods.base import matrix_shape
from compression.model import as_saved, compress_model, target_layers
from compression.registry import InvalidSetting
from compression.stored import shipped

SET_UP = ["gora", "colora"]


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

    from compression.adapters.ranks.colora import contribution

    weight, stats = torch.randn(9, 12), layer_stats((9, 12))
    x = torch.linalg.cholesky(stats.inputs.pooled().double())
    expected = (stats.gradients.mean.double() @ x).norm() / (weight.double() @ x).norm()
    assert contribution(weight, stats) == pytest.approx(float(expected), rel=1e-4)
    louder = replace(stats.inputs, second_moment=9 * stats.inputs.second_moment)
    assert contribution(weight, replace(stats, inputs=louder)) == pytest.approx(float(expected))
    assert contribution(torch.zeros(9, 12), stats) == 0


@given(
    wanted=st.lists(st.floats(0, 100), min_size=1, max_size=8),
    costs=st.lists(st.integers(1, 50), min_size=8, max_size=8),
    budget=st.integers(0, 2000),
    least=st.integers(0, 3),
    room=st.integers(0, 20),
)
@example([5e-324, 5e-324], [1] * 8, 1, 0, 1)  # next to nothing has no quotient in a float
@example([5e-324], [1] * 8, 0, 0, 1)
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
    method = taken(adapter, "rtn", target_layers(wide_network(), ["*"]))
    model = compress_model(
        wide_network(), [rule(method, "zeros", adapter, 4)], ["*"], calibration=calibration()
    )
    acting, _ = acting_of(model, adapter)
    if acting is not None:
        train(model, acting, 12)
    with as_saved(model):
        ranks = {layer: found.rank for layer, found in shipped(model).items()}
        again = deserialize(serialize(model), wide_network())
        assert torch.equal(again(inputs()), model(inputs()))
    assert {n: entry.rank for n, entry in again.compression.layers.items()} == ranks
