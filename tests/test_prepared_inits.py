"""What the inits that prepare an adapter for training, and correct nothing, start from."""

import math
from functools import partial

import pytest
import torch
from networks import generator, layer_stats

from compression.inits import INITS
from compression.methods import METHODS
from compression.stats import GradientStats, InputStats, LayerStats


def weight_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(name, weight, rank, stats, method="rtn", **args):
    compress = partial(METHODS.build(method).compress, stats=stats)
    return INITS.build(name, args).start(weight, compress, rank, stats, generator())


def truncated(matrix, rank):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def test_lora_sb_is_the_best_first_step_and_b_sees_the_whole_gradient_projected():
    weight, stats, rank = weight_of((10, 16)), layer_stats((10, 16)), 3
    start = run("lora_sb", weight, rank, stats, eta=0.2)
    gradient = stats.gradients.mean
    expected = truncated(-0.2 * gradient, rank)
    torch.testing.assert_close(start.B @ start.A, expected)
    torch.testing.assert_close(start.A @ start.A.T, torch.eye(rank), atol=1e-5, rtol=0)
    assert torch.equal(start.base.dense(), METHODS.build("rtn").compress(weight).dense())
    assert float((start.B @ start.A * gradient).sum()) < 0  # downhill


def test_lora_ga_steps_along_the_best_gradient_of_twice_the_rank():
    weight, stats, rank, gamma = weight_of((12, 16)), layer_stats((12, 16)), 3, 4.0
    start = run("lora_ga", weight, rank, stats, "none", gamma=gamma)
    gradient = stats.gradients.mean
    # A step of B and A from dL/dB = G A^T and dL/dA = B^T G, to first order.
    step = gradient @ start.A.T @ start.A + start.B @ start.B.T @ gradient
    size = math.sqrt(12) / gamma
    torch.testing.assert_close(step, size * truncated(gradient, 2 * rank), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(start.base.dense() + start.B @ start.A, weight)


def test_eva_reads_the_most_of_its_inputs_and_starts_without_effect():
    x = weight_of((50, 12), seed=1) @ torch.diag(torch.linspace(0.1, 3, 12))
    moment = (x.T @ x / len(x)).unsqueeze(0)
    stats = LayerStats(InputStats(moment, x.mean(0)[None], x.abs().mean(0)[None], len(x)))
    start = run("eva", weight_of((8, 12)), 4, stats)
    assert not start.B.any()
    torch.testing.assert_close(start.A @ start.A.T, torch.eye(4), atol=1e-5, rtol=0)
    held = float((x @ start.A.T).square().sum())
    assert held == pytest.approx(float(torch.linalg.svdvals(x)[:4].square().sum()), rel=1e-5)


def test_eva_finds_what_an_eigendecomposition_does():
    mixed = weight_of((300, 300)) * torch.logspace(0, -2, 300)
    x = mixed @ weight_of((300, 300), seed=1)
    moment = x.T @ x / len(x)
    stats = LayerStats(InputStats(moment[None], x.mean(0)[None], x.abs().mean(0)[None], len(x)))
    a = run("eva", weight_of((40, 300)), 16, stats).A
    most = float(torch.linalg.eigvalsh(moment.double())[-16:].sum())
    assert float((a @ moment @ a.T).trace()) == pytest.approx(most, rel=1e-4)
    values, vectors = torch.linalg.eigh(moment)
    assert float((a[:8] @ vectors[:, -8:].flip(1)).diagonal().abs().min()) > 0.999


@pytest.mark.parametrize("selector", ["deim", "norm"])
def test_pmss_reads_different_rows_of_the_weight(selector):
    weight = weight_of((12, 16))
    start = run("pmss", weight, 5, None, selector=selector)
    same = (start.A[:, None] == weight[None]).all(2)
    assert same.sum(1).tolist() == [1] * 5
    assert int(same.any(0).sum()) == 5
    assert not start.B.any()
    if selector == "norm":
        assert same.any(0).nonzero().flatten().tolist() == sorted(
            weight.norm(dim=1).argsort(descending=True)[:5].tolist()
        )


def test_deim_rows_span_a_weight_of_low_rank_where_the_largest_rows_do_not():
    weight = torch.zeros(9, 6)
    weight[:6] = torch.eye(6)[0] * 5  # large rows, all the same
    weight[6:, 1:4] = torch.eye(3)
    rank = {s: run("pmss", weight, 4, None, selector=s).A for s in ("deim", "norm")}
    assert torch.linalg.matrix_rank(rank["deim"]) == 4
    assert torch.linalg.matrix_rank(rank["norm"]) == 1


@pytest.mark.parametrize("name", ["lora_sb", "lora_ga"])
def test_a_layer_without_gradient_starts_without_effect(name):
    weight = weight_of((8, 10))
    stats = LayerStats(None, GradientStats(torch.zeros(8, 10), torch.eye(8)))
    start = run(name, weight, 3, stats)
    assert not start.B.any()
    assert (start.A != 0).any(1).all()
