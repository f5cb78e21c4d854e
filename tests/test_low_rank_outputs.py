"""Low-rank methods that look at inputs: the optimum by outputs, and what is kept."""

import math

import pytest
import torch
from networks import layer_stats

from compression.methods import METHODS


def build(name, **args):
    return METHODS.build(name, args)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_rank(rank, rows, columns):
    return normal(rows, rank) @ normal(rank, columns, seed=1)


def error(packed, weight):
    return float((weight - packed.dense()).norm())


def output_error(packed, weight, stats):
    """``||(W - W') H^(1/2)||_F``."""
    change = (weight - packed.dense()).flatten(1).double()
    return float((change @ stats.inputs.pooled().double() @ change.T).trace().clamp(min=0).sqrt())


def close(value, rel=1e-4):
    return pytest.approx(float(value), rel=rel, abs=1e-4)


def tail(matrix, rank):
    return torch.linalg.svdvals(matrix.double())[rank:].norm()


def root(moment):
    values, vectors = torch.linalg.eigh(moment.double())
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


# Calibrated


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (8, 3, 3, 3)])
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_whitened_svd_meets_its_optimum(shape, rank):
    weight, stats = normal(*shape), layer_stats(shape)
    packed = build("whitened_svd", rank=rank, damp=0.0).compress(weight, stats)
    best = tail(weight.flatten(1).double() @ root(stats.inputs.pooled()), rank)
    assert output_error(packed, weight, stats) == close(best)
    plain = build("svd", rank=rank).compress(weight)
    assert output_error(packed, weight, stats) < output_error(plain, weight, stats)
    assert packed.stored_bytes() == 4 * rank * (shape[0] + math.prod(shape[1:]))


def test_whitened_svd_is_the_svd_between_cholesky_factors():
    weight, stats = normal(10, 16), layer_stats((10, 16))
    factor = torch.linalg.cholesky(stats.inputs.pooled().double())
    u, s, vh = torch.linalg.svd(weight.double() @ factor)
    expected = u[:, :3] * s[:3] @ vh[:3] @ factor.inverse()
    found = build("whitened_svd", rank=3, damp=0.0).compress(weight, stats).dense()
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-4)
    afm = build("afm", rank=3, mean="free").compress(weight, stats).dense()
    torch.testing.assert_close(afm, found, atol=1e-5, rtol=1e-5)


def test_whitened_svd_damped_without_end_is_svd():
    weight, stats = normal(10, 16), layer_stats((10, 16))
    found = build("whitened_svd", rank=3, damp=1e6).compress(weight, stats).dense()
    expected = build("svd", rank=3).compress(weight).dense()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_afm_keeps_the_mean_output_and_the_covariance_s_head(shape):
    weight, stats = normal(*shape), layer_stats(shape)
    mean, rank = stats.inputs.mean.mean(0), 4
    packed = build("afm", rank=rank).compress(weight, stats)
    torch.testing.assert_close(packed.dense() @ mean, weight @ mean, atol=1e-4, rtol=1e-4)
    first = torch.nn.functional.normalize(weight @ mean, dim=0)[:, None]
    across = weight - first @ (first.T @ weight)
    best = tail(across.double() @ root(stats.inputs.pooled()), rank - 1)
    assert output_error(packed, weight, stats) == close(best)
    free = build("afm", rank=rank, mean="free").compress(weight, stats)
    assert output_error(free, weight, stats) <= output_error(packed, weight, stats)
    full = build("afm", rank=12).compress(weight, stats)
    assert error(full, weight) < 1e-3


@pytest.mark.parametrize("name", ["whitened_svd", "afm", "utilized_rank"])
def test_energy_is_that_of_outputs(name):
    weight, stats = normal(16, 24), layer_stats((16, 24))
    moment = stats.inputs.pooled()
    power = float((weight @ moment @ weight.T).trace())
    packed = build(name, energy=0.9).compress(weight, stats)
    lost = output_error(packed, weight, stats) ** 2 / power
    assert lost < (0.1 if name != "utilized_rank" else 0.5)
    assert packed.method.rank < 16


def test_utilized_rank_changes_nothing_on_inputs_that_were_seen():
    weight = normal(12, 20)
    x = of_rank(5, 40, 20)
    stats = layer_stats((12, 20))
    moments = stats.inputs
    object.__setattr__(moments, "second_moment", (x.T @ x / len(x))[None])
    packed = build("utilized_rank", energy=1.0).compress(weight, stats)
    assert packed.method.rank == 5
    torch.testing.assert_close(x @ packed.dense().T, x @ weight.T, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["whitened_svd", "afm", "utilized_rank", "cur"])
@pytest.mark.parametrize("dead", ["all", "half"])
def test_inputs_that_are_never_there(name, dead):
    weight, stats = normal(6, 10), layer_stats((6, 10))
    alive = torch.zeros(10) if dead == "all" else (torch.arange(10) < 5).float()
    for field, power in (("mean", 1), ("magnitude", 1)):
        object.__setattr__(stats.inputs, field, getattr(stats.inputs, field) * alive**power)
    moment = stats.inputs.second_moment * alive * alive[:, None]
    object.__setattr__(stats.inputs, "second_moment", moment)
    args = {"weigh": "inputs"} if name == "cur" else {}
    assert torch.isfinite(build(name, rank=3, **args).compress(weight, stats).dense()).all()
