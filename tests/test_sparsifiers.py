"""Sparse methods: what each is defined by."""

import pytest
import torch
from networks import layer_stats
from sparse_helpers import BY_INPUTS, build, normal, output_error

from compression.methods.sparsify.chita import Quadratic
from compression.methods.sparsify.output_error import inverse_factor, largest_eigenvalue
from compression.second_moments import damped
from compression.stats import GradientStats, LayerStats

# What is kept.


def test_magnitude_keeps_the_largest_as_they_are():
    weight = normal(7, 11)
    dense = build("magnitude", sparsity=0.7).compress(weight).dense()
    kept = dense != 0
    assert torch.equal(dense[kept], weight[kept])
    assert weight[kept].abs().min() >= weight[~kept].abs().max()


def test_two_of_four_are_the_largest_of_each_tile():
    weight = torch.tensor([[1.0, -9.0, 2.0, 3.0, 0.5, -4.0]])
    assert build("n_m").compress(weight).dense().tolist() == [[0, -9, 0, 3, 0.5, -4]]


def test_wanda_keeps_the_largest_products_of_each_row():
    weight, stats = normal(5, 12), layer_stats((5, 12))
    score = weight.abs() * stats.inputs.second_moment[0].diagonal().sqrt()
    kept = build("wanda", sparsity=0.75).compress(weight, stats).dense() != 0
    assert (kept.sum(1) == 3).all()
    assert torch.equal(kept, score >= score.topk(3, dim=1).values[:, -1:])


def test_wanda_keeps_the_largest_products_of_a_layer():
    weight, stats = normal(6, 2, 3, 3), layer_stats((6, 2, 3, 3), groups=3)
    sizes = stats.inputs.second_moment.diagonal(dim1=1, dim2=2).sqrt().repeat_interleave(2, 0)
    score = (weight.flatten(1).abs() * sizes).flatten()
    packed = build("wanda", sparsity=0.7, across="layer").compress(weight, stats)
    kept = packed.dense().flatten() != 0
    assert kept.sum() == round(0.3 * 108)
    assert torch.equal(kept, score >= score.sort().values[-32])


@pytest.mark.parametrize("name", ["wanda", "admm", "awp"])
@pytest.mark.parametrize("args", [{}, {"pattern": "n_m", "n": 1}])
def test_groups_are_pruned_each_by_its_own_inputs(name, args):
    """A grouped convolution is as its groups are one by one."""
    weight, stats = normal(6, 2, 3, 3), layer_stats((6, 2, 3, 3), groups=3)
    whole = build(name, **args).compress(weight, stats).dense()
    for g in range(3):
        part = slice(2 * g, 2 * g + 2)
        own = type(stats.inputs)(
            **{
                k: getattr(stats.inputs, k)[g : g + 1]
                for k in ("second_moment", "mean", "magnitude")
            },
            count=stats.inputs.count,
        )
        alone = build(name, **args).compress(weight[part], LayerStats(own)).dense()
        torch.testing.assert_close(whole[part], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("args", [{}, {"sparsity": 0.8}, {"pattern": "n_m"}])
@pytest.mark.parametrize("groups", [1, 4])
def test_making_up_for_what_is_pruned_pays(args, groups):
    """On correlated inputs: sparsegpt, admm and awp against wanda, wanda against magnitude."""
    shape = (32, 128)
    weight, stats = normal(*shape), layer_stats(shape, groups)
    error = {
        name: output_error(weight, build(name, **args).compress(weight, stats), stats).sum()
        for name in BY_INPUTS
    }
    plain = build("n_m") if "pattern" in args else build("magnitude", **args)
    assert error["wanda"] < output_error(weight, plain.compress(weight), stats).sum()
    for name in ("sparsegpt", "admm", "awp"):
        assert error[name] < 0.9 * error["wanda"]


# sparsegpt.


def test_the_factor_is_that_of_the_inverse():
    moment = layer_stats((4, 12), groups=2).inputs.second_moment.double()
    factor = inverse_factor(moment, 0.01)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(
        factor.transpose(1, 2) @ factor, damped(moment, 0.01).inverse(), atol=1e-6, rtol=1e-6
    )
    flat = torch.ones(1, 200, 200)  # of rank one: too little damping leaves no factor
    assert torch.isfinite(inverse_factor(flat, 1e-12)).all()


def test_sparsegpt_with_inputs_that_are_not_correlated_is_magnitude():
    weight = normal(8, 16)
    stats = layer_stats((8, 16))
    white = type(stats.inputs)(torch.eye(16)[None], torch.zeros(1, 16), torch.ones(1, 16), 99)
    by_sparsegpt = build("sparsegpt").compress(weight, LayerStats(white)).dense()
    assert torch.equal(by_sparsegpt, build("magnitude").compress(weight).dense())


def test_sparsegpt_values_are_those_of_its_definition():
    """Column by column in float64, the inverse shrunk step by step as in the OBS derivation."""
    weight, stats = normal(5, 12), layer_stats((5, 12))
    packed = build("sparsegpt", block=4, damping=0.01).compress(weight, stats)
    kept = packed.dense() != 0
    moment = stats.inputs.second_moment[0].double()
    moment = moment + 0.01 * moment.diagonal().mean() * torch.eye(12)
    left = weight.double().clone()
    for j in range(12):
        inverse = moment[j:, j:].inverse()
        error = torch.where(kept[:, j], 0, left[:, j] / inverse[0, 0])
        left[:, j:] -= error[:, None] * inverse[0]
    torch.testing.assert_close(packed.dense(), (left * kept).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BY_INPUTS)
def test_dead_and_few_inputs(name):
    """More columns than inputs seen, some of them never alive, one layer with none at all."""
    x = normal(3, 20)
    x[:, ::3] = 0
    weight = normal(6, 20)
    for inputs in (x, torch.zeros(3, 20)):
        stats = layer_stats((6, 20)).inputs
        moments = type(stats)(
            (inputs.T @ inputs / 3)[None], inputs.mean(0)[None], inputs.abs().mean(0)[None], 3
        )
        dense = build(name).compress(weight, LayerStats(moments)).dense()
        assert torch.isfinite(dense).all()
        assert dense.abs().max() < 1e3


# admm, awp.


@pytest.mark.parametrize("args", [{}, {"pattern": "n_m"}, {"sparsity": 0.8}])
def test_admm_comes_to_the_best_values_under_its_mask(args):
    """``H_SS w_S = (H w)_S`` in every row."""
    weight, stats = normal(6, 16), layer_stats((6, 16))
    method = build("admm", iterations=3000, rounds=1, rho=0.1, **args)
    dense = method.compress(weight, stats).dense()
    moment = stats.inputs.second_moment[0].double()
    for row, wanted in zip(dense, weight.double(), strict=True):
        s = row != 0
        best = torch.linalg.solve(moment[s][:, s], (moment @ wanted)[s])
        torch.testing.assert_close(row[s], best.float(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("args", [{}, {"pattern": "n_m"}])
@pytest.mark.parametrize(("iterations", "rounds"), [(1, 1), (20, 1), (20, 15), (3, 15)])
def test_admm_is_no_worse_than_its_mask_alone(args, iterations, rounds):
    weight, stats = normal(16, 32), layer_stats((16, 32))
    method = build("admm", iterations=iterations, rounds=rounds, **args)
    packed = method.compress(weight, stats)
    mask = packed.dense() != 0
    moment = stats.inputs.second_moment[0].double()
    plain = (weight * ~mask).double()
    assert (output_error(weight, packed, stats) <= (plain @ moment * plain).sum(1) + 1e-5).all()
    if rounds == 1:
        wanda = build("wanda", **args).compress(weight, stats)
        assert torch.equal(mask, wanda.dense() != 0)


@pytest.mark.parametrize("args", [{}, {"pattern": "n_m"}])
@pytest.mark.parametrize("step", [0.1, 1.0])
def test_awp_never_rises(args, step):
    weight, stats = normal(16, 32), layer_stats((16, 32))
    before = output_error(weight, build("wanda", **args).compress(weight, stats), stats)
    for iterations in (1, 2, 4, 8, 64):
        packed = build("awp", iterations=iterations, step=step, **args).compress(weight, stats)
        after = output_error(weight, packed, stats)
        assert (after <= before * (1 + 1e-5)).all()
        before = after


def test_the_largest_eigenvalue_is_met_from_below():
    moment = layer_stats((4, 24), groups=3).inputs.second_moment
    exact = torch.linalg.eigvalsh(moment)[:, -1]
    found = largest_eigenvalue(moment).flatten()
    assert (found <= exact * (1 + 1e-5)).all()
    assert (found >= exact * 0.98).all()


# chita.


def single_gradients(samples):
    return LayerStats(None, GradientStats(samples.mean(0), torch.eye(samples.shape[1]), samples))


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
@pytest.mark.parametrize("ridge", [0.01, 1.0])
@pytest.mark.parametrize("shape", [(4, 6), (16, 32), (40, 40)])
def test_chita_is_no_worse_than_magnitude(shape, ridge, sparsity):
    weight, samples = normal(*shape), normal(8, *shape, seed=1) * normal(*shape, seed=2).abs()
    model = Quadratic.of(samples, weight.flatten(), ridge)
    values = {
        name: build(name, sparsity=sparsity, **args).compress(weight, single_gradients(samples))
        for name, args in {"magnitude": {}, "chita": {"ridge": ridge}}.items()
    }
    kept = values["chita"].method.kept
    assert kept == values["magnitude"].method.kept
    objective = {name: model.objective(p.dense().flatten()) for name, p in values.items()}
    assert objective["chita"] < objective["magnitude"]


def test_chita_values_are_best_on_their_support():
    weight, samples = normal(4, 6), normal(8, 4, 6, seed=1)
    dense = build("chita", ridge=0.1).compress(weight, single_gradients(samples)).dense().flatten()
    model = Quadratic.of(samples, weight.flatten(), 0.1)
    assert model.gradient(dense)[dense != 0].abs().max() < 1e-4
    hessian = samples.flatten(1).T @ samples.flatten(1) / 8
    hessian += 0.1 * hessian.diagonal().mean() * torch.eye(24)
    change = dense - weight.flatten()
    assert model.objective(dense) == pytest.approx(float(change @ hessian @ change) / 2, rel=1e-4)


def test_chita_without_gradients_to_speak_of_is_magnitude():
    weight = normal(4, 6)
    packed = build("chita").compress(weight, single_gradients(torch.zeros(8, 4, 6)))
    assert torch.equal(packed.dense(), build("magnitude").compress(weight).dense())
