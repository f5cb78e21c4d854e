"""The closed form, or the defining property, of each init that corrects or prepares."""

from functools import partial

import pytest
import torch
from networks import generator, layer_stats

from compression.inits import INITS
from compression.inits.base import best_factors
from compression.inits.lq_lora import fisher_weights
from compression.inits.weighted import weighted_factors
from compression.methods import METHODS
from compression.registry import InvalidSetting
from compression.second_moments import damped, output_directions
from compression.stats import GradientStats, InputStats, LayerStats

CORRECTIONS = ["lqer", "eora", "int2_1", "loftq_act", "lq_lora"]
CALIBRATED = [name for name in INITS if INITS[name].needs]
SHAPES = [(24, 16), (16, 24), (16, 16)]


def weight_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(name, weight, rank, stats, method="rtn", bits=3, **args):
    made = METHODS.build(method, {"bits": bits} if method == "rtn" else {})
    compress = partial(made.compress, stats=stats)
    return INITS.build(name, args).start(weight, compress, rank, stats, generator())


def left(weight, start):
    """What the start has wrong, in float64."""
    base = start.base.dense().flatten(1).double()
    return weight.flatten(1).double() - base - start.B.double() @ start.A.double()


def error_of(weight, start):
    return (weight - start.base.dense()).flatten(1).double()


def root(moment):
    """Symmetric square root of H and its inverse, which the inits do without."""
    values, vectors = torch.linalg.eigh(moment.double())
    up = values.clamp(min=0).sqrt()
    return vectors * up @ vectors.T, vectors / up @ vectors.T


def truncated(matrix, rank):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def tail(matrix, rank):
    return float(torch.linalg.svdvals(matrix)[rank:].norm())


def output_error(change, stats):
    return float((change @ stats.inputs.pooled().double() @ change.T).trace().sqrt())


def inputs_stats(x):
    x = x.unsqueeze(0)
    moment = x.transpose(1, 2) @ x / x.shape[1]
    return LayerStats(InputStats(moment, x.mean(1), x.abs().mean(1), x.shape[1]))


# The shared mathematics.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weighted_factors_are_the_published_form_with_root_and_inverse(shape):
    error, stats, rank = weight_of(shape), layer_stats(shape), 5
    moment = damped(stats.inputs.pooled().double(), 1e-3)
    b, a = weighted_factors(error, moment, rank, 1.0, generator())
    up, down = root(moment)
    expected = truncated(error.double() @ up, rank) @ down
    torch.testing.assert_close((b @ a).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(b.T @ b, a @ a.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_leading_vectors_of_even_weights_are_those_of_the_svd(shape):
    """Squaring in float64 loses nothing that float32 has: also of small singular values."""
    u, _, vh = torch.linalg.svd(weight_of(shape).double(), full_matrices=False)
    s = torch.logspace(0, -6, 16, dtype=torch.float64)
    matrix = (u * s) @ vh
    even = torch.ones(shape[1], dtype=torch.float64)
    found = output_directions(matrix, even)[0][:, :15]
    torch.testing.assert_close(
        (found.T @ u[:, :15]).abs(), torch.eye(15).double(), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.parametrize("kind", ["few rows", "dead inputs", "none at all"])
def test_singular_moments_are_corrected_as_well_as_others(name, kind):
    weight, rank = weight_of((12, 20)), 4
    x = weight_of((6 if kind == "few rows" else 60, 20), seed=1)
    x[:, 5:9] *= kind != "dead inputs"
    x *= kind != "none at all"
    gradients = layer_stats((12, 20)).gradients
    gradients.samples[:, :, 5:9] = 0
    gradients.samples[:, 3] = 0
    stats = LayerStats(inputs_stats(x).inputs, gradients)
    start = run(name, weight, rank, stats)
    assert torch.isfinite(start.B).all()
    assert torch.isfinite(start.A).all()
    zeros = run("zeros", weight, rank, stats)
    if name != "lq_lora":
        before = output_error(left(weight, zeros), stats)
        assert output_error(left(weight, start), stats) <= before * (1 + 1e-6)
    if name in ("lqer", "eora", "int2_1"):
        assert left(weight, start).norm() <= left(weight, zeros).norm() * (1 + 1e-6)


@pytest.mark.parametrize("name", ["lqer", "eora", "int2_1"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_projection_lowers_every_norm_and_full_rank_restores_the_weight(name, shape):
    weight, stats = weight_of(shape), layer_stats(shape)
    zeros = left(weight, run("zeros", weight, 3, stats)).norm()
    assert left(weight, run(name, weight, 3, stats)).norm() < zeros
    whole = run(name, weight, 16, stats)
    assert float(left(weight, whole).norm()) < 1e-5 * float(weight.norm())


@pytest.mark.parametrize("name", CORRECTIONS)
def test_nothing_to_correct_leaves_b_zero_and_a_alive(name):
    weight, stats = weight_of((10, 14)), layer_stats((10, 14))
    start = run(name, weight, 4, stats, method="none")
    assert not start.B.any()
    assert (start.A != 0).any(1).all()


@pytest.mark.parametrize("name", CALIBRATED)
def test_without_calibration_they_say_so(name):
    with pytest.raises(InvalidSetting, match="needs calibration, and has no"):
        run(name, weight_of((6, 8)), 2, None)


@pytest.mark.parametrize("name", CALIBRATED)
def test_grouped_convolutions_pool_their_inputs(name):
    weight = weight_of((6, 2, 3, 3))
    start = run(name, weight, 2, layer_stats((6, 2, 3, 3), groups=3))
    assert start.A.shape == (2, 18)


# Each one's own.


@pytest.mark.parametrize("act_scale", ["abs_mean", "rms"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lqer_leaves_the_tail_of_the_scaled_error(act_scale, shape):
    weight, stats, rank = weight_of(shape), layer_stats(shape), 4
    start = run("lqer", weight, rank, stats, act_scale=act_scale)
    sizes = stats.inputs.magnitude if act_scale == "abs_mean" else stats.inputs.root_mean_square()
    sizes, error = sizes[0].double(), error_of(weight, start)
    assert float((left(weight, start) * sizes).norm()) == pytest.approx(tail(error * sizes, rank))
    published = truncated(error * sizes, rank) / sizes
    torch.testing.assert_close((start.B @ start.A).double(), published, atol=1e-5, rtol=1e-4)


def test_lqer_of_even_inputs_is_residual():
    weight, x = weight_of((12, 20)), torch.eye(20).repeat(3, 1)
    stats = inputs_stats(x)
    for name in ("lqer", "eora"):
        start, residual = run(name, weight, 4, stats), run("residual", weight, 4, stats)
        torch.testing.assert_close(start.B @ start.A, residual.B @ residual.A, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eora_is_the_closed_form_and_no_other_init_has_less_output_error(shape):
    weight, stats, rank = weight_of(shape), layer_stats(shape), 4
    start = run("eora", weight, rank, stats, damping=0.0)
    up, down = root(stats.inputs.pooled())
    error = error_of(weight, start)
    published = truncated(error @ up, rank) @ down
    torch.testing.assert_close((start.B @ start.A).double(), published, atol=1e-4, rtol=1e-3)
    least = output_error(left(weight, start), stats)
    assert least == pytest.approx(tail(error @ up, rank), rel=1e-5)
    for name in ("zeros", "residual", "lqer", "int2_1"):
        other = run(name, weight, rank, stats)
        assert least <= output_error(left(weight, other), stats) * (1 + 1e-6)


def test_no_step_of_eora_s_factors_lowers_the_output_error():
    weight, stats, rank = weight_of((16, 24)), layer_stats((16, 24)), 4
    start = run("eora", weight, rank, stats, damping=0.0)
    moment, error = stats.inputs.pooled().double(), error_of(weight, start)
    factors = [f.double().requires_grad_() for f in (start.B, start.A)]
    change = error - factors[0] @ factors[1]
    (change @ moment * change).sum().backward()
    sizes = float((error @ moment).norm() * start.A.norm())
    assert all(float(f.grad.norm()) < 1e-5 * sizes for f in factors)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int2_1_trains_to_the_optimum_of_eora_and_no_step_is_worse(shape):
    weight, stats, rank = weight_of(shape), layer_stats(shape), 4
    errors = [
        output_error(
            left(weight, run("int2_1", weight, rank, stats, steps=steps, damping=0.0)), stats
        )
        for steps in (1, 2, 5, 20, 300)
    ]
    zeros = output_error(left(weight, run("zeros", weight, rank, stats)), stats)
    least = output_error(left(weight, run("eora", weight, rank, stats, damping=0.0)), stats)
    assert [zeros, *errors] == sorted([zeros, *errors], reverse=True)
    assert least <= errors[-1] <= least * 1.001


def test_loftq_act_of_one_iteration_is_eora_and_more_never_worse():
    weight, stats, rank = weight_of((24, 24)), layer_stats((24, 24)), 4
    eora = run("eora", weight, rank, stats)
    errors = []
    for iterations in (1, 2, 5, 10):
        start = run("loftq_act", weight, rank, stats, iterations=iterations)
        errors.append(output_error(left(weight, start), stats))
    assert errors[0] == pytest.approx(output_error(left(weight, eora), stats))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_lq_lora_of_one_iteration_is_the_factorised_fisher_closed_form():
    weight, stats, rank = weight_of((14, 18)), layer_stats((14, 18)), 4
    fisher = stats.gradients.samples.double().square().mean(0)
    rows, columns = fisher.sqrt().mean(1), fisher.sqrt().mean(0)
    for found, expected in zip(fisher_weights(stats), (rows, columns), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    start = run("lq_lora", weight, rank, stats, iterations=1)
    scaled = rows[:, None] * error_of(weight, start) * columns
    published = truncated(scaled, rank) / rows[:, None] / columns
    torch.testing.assert_close((start.B @ start.A).double(), published, atol=1e-5, rtol=1e-4)
    remains = rows[:, None] * left(weight, start) * columns
    assert float(remains.norm()) == pytest.approx(tail(scaled, rank), rel=1e-5)


def test_lq_lora_of_even_gradients_is_loftq():
    weight = weight_of((12, 16))
    samples = torch.full((4, 12, 16), 0.5)
    samples[::2] *= -1
    stats = LayerStats(None, GradientStats(samples.mean(0), torch.eye(12), samples.bfloat16()))
    ours, loftq = run("lq_lora", weight, 3, stats), run("loftq", weight, 3, stats)
    assert float(left(weight, ours).norm()) == pytest.approx(float(left(weight, loftq).norm()))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_svdquant_takes_the_principal_part_of_the_smoothed_weight(alpha):
    weight, stats, rank = weight_of((14, 18)), layer_stats((14, 18)), 4
    sizes = stats.inputs.root_mean_square()[0].double() ** alpha
    start = run("svdquant", weight, rank, stats, "none", smooth_alpha=alpha)
    delta = (start.B @ start.A).double()
    expected = truncated(weight.double() * sizes, rank) / sizes
    torch.testing.assert_close(delta, expected, atol=1e-5, rtol=1e-4)
    rest = ((weight.double() - delta) * sizes).norm()
    assert rest < (weight.double() * sizes).norm()
    torch.testing.assert_close(start.base.dense() + start.B @ start.A, weight)
    if alpha == 0:
        pissa = run("pissa", weight, rank, stats, "none")
        torch.testing.assert_close(pissa.B @ pissa.A, start.B @ start.A, atol=1e-5, rtol=1e-4)


def test_factors_of_directions_below_rounding_are_not_both_zero():
    matrix = torch.outer(torch.ones(6), torch.ones(9))
    b, a = weighted_factors(matrix, damped(torch.zeros(9, 9).double(), 0.0), 3, 1.0, generator())
    expected, _ = best_factors(matrix, 3, 1.0, generator())
    assert (b != 0).any(0).tolist() == (expected != 0).any(0).tolist() == [True, False, False]
    assert (a != 0).any(1).all()
