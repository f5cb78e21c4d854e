"""What defines each quantiser that looks at inputs or gradients: optima, identities, bytes."""

import math
from dataclasses import replace

import pytest
import torch
from networks import layer_stats

from compression.methods import METHODS
from compression.methods.quantize.feedback import TILE, round_diagonals, unit_upper
from compression.methods.quantize.uniform import Grid
from compression.registry import InvalidSetting
from compression.second_moments import by_group, row_errors
from compression.stats import GradientStats, InputStats, LayerStats

CALIBRATED = ["gptq", "awq"]


def build(name, **args):
    return METHODS.build(name, args)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_moments(moment, outer=None):
    """Statistics of these second moments alone."""
    columns = moment.shape[-1]
    inputs = InputStats(moment, torch.zeros(1, columns), torch.ones(1, columns), 1)
    gradients = None if outer is None else GradientStats(torch.zeros(1, 1), outer)
    return LayerStats(inputs, gradients)


def loss(weight, packed, stats):
    moment = stats.inputs.second_moment
    change = by_group((weight - packed.dense()).flatten(1), len(moment))
    return row_errors(change, moment).flatten()


# gptq


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_the_factor_gives_the_damped_moment_back(damping):
    moment = layer_stats((4, 12), groups=2).inputs.second_moment
    unit = unit_upper(moment, damping).double() + torch.eye(12)
    whole = moment.double() + max(damping, 1e-8) * torch.eye(12) * moment.diagonal(
        dim1=1, dim2=2
    ).mean(1).view(-1, 1, 1)
    inverse = torch.linalg.inv(unit)
    middle = inverse @ whole @ inverse.transpose(1, 2)
    diagonal = middle.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(middle, torch.diag_embed(diagonal), atol=1e-4, rtol=0)
    assert (diagonal > 0).all()


@pytest.mark.parametrize("mode", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("size", [0, 8])
def test_gptq_of_white_inputs_is_rtn(mode, act_order, size):
    weight, args = normal(9, 70), {"mode": mode, "group_size": size, "bits": 3}
    stats = with_moments(2.5 * torch.eye(70)[None])
    packed = build("gptq", **args, act_order=act_order, clip=False).compress(weight, stats)
    plain = build("rtn", **args).compress(weight)
    assert {k: v.tolist() for k, v in packed.state().items()} == {
        k: v.tolist() for k, v in plain.state().items()
    }


def test_gptq_makes_up_for_errors_as_the_paper_does():
    """The published form: rows of the upper Cholesky factor of the inverse, one column a time."""
    weight, stats = normal(8, 100), layer_stats((8, 100))
    moment = stats.inputs.second_moment[0]
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(100)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped.double()), upper=True).float()
    grid = build("rtn", bits=3).grid(weight)
    left, rounded = weight.clone(), torch.empty_like(weight)
    for j in range(100):
        rounded[:, j] = grid.points(grid.codes(left[:, j : j + 1]))[:, 0]
        step = (left[:, j] - rounded[:, j]) / factor[j, j]
        left[:, j:] -= step[:, None] * factor[j, j:]
    ours = build("gptq", bits=3, act_order=False, clip=False).compress(weight, stats).dense()
    same = (ours - rounded).abs() < 1e-6
    assert same.float().mean() > 0.98  # a tie broken otherwise changes all that follows in a row


@pytest.mark.parametrize("name", CALIBRATED)
@pytest.mark.parametrize("mode", ["symmetric", "asymmetric"])
@pytest.mark.parametrize(
    ("shape", "groups"), [((12, 40), 1), ((12, 4, 3, 3), 3), ((8, 1, 3, 3), 8)]
)
@pytest.mark.parametrize("clip", [False, True])
def test_calibrated_methods_are_never_worse_than_rtn(name, mode, shape, groups, clip):
    weight, stats = normal(*shape), layer_stats(shape, groups)
    for size, bits in ((0, 2), (0, 4), (5, 3)):
        args = {"mode": mode, "bits": bits, "group_size": size}
        plain = loss(weight, build("rtn", **args).compress(weight), stats)
        found = loss(weight, build(name, **args, clip=clip).compress(weight, stats), stats)
        assert found.sum() <= plain.sum() * (1 + 1e-5)
        if name == "gptq":
            assert (found <= plain * (1 + 1e-4)).all()


def test_gptq_gains_on_correlated_inputs():
    weight, stats = normal(64, 96), layer_stats((64, 96))
    for size in (0, 16):
        args = {"bits": 3, "group_size": size}
        plain = loss(weight, build("rtn", **args).compress(weight), stats).sum()
        found = loss(weight, build("gptq", **args).compress(weight, stats), stats).sum()
        assert found < 0.5 * plain


@pytest.mark.parametrize("name", [*CALIBRATED, "yaqa"])
def test_rank_deficient_dead_and_absent_inputs_are_taken(name):
    weight, outer = normal(6, 20), torch.zeros(6, 6)
    direction = normal(1, 20)
    direction[:, 3:9] = 0
    for moment in (torch.zeros(1, 20, 20), (direction.T @ direction)[None]):
        stats = with_moments(moment, outer)
        for damping in (0.0, 0.01) if name != "awq" else (None,):
            args = {} if damping is None else {"damping": damping}
            assert torch.isfinite(build(name, **args).compress(weight, stats).dense()).all()


def test_groups_are_as_if_each_were_a_layer():
    weight, stats = normal(6, 10), layer_stats((6, 10), groups=2)
    whole = build("gptq").compress(weight, stats).dense()
    for g in range(2):
        part = replace(
            stats.inputs,
            second_moment=stats.inputs.second_moment[g : g + 1],
            mean=stats.inputs.mean[g : g + 1],
            magnitude=stats.inputs.magnitude[g : g + 1],
        )
        rows = slice(3 * g, 3 * g + 3)
        alone = build("gptq").compress(weight[rows].clone(), LayerStats(part)).dense()
        torch.testing.assert_close(whole[rows], alone)


@pytest.mark.parametrize("name", ["gptq", "yaqa"])
def test_bytes_are_those_of_rtn(name):
    weight, stats = normal(6, 40), layer_stats((6, 40))
    for args in ({}, {"mode": "asymmetric", "group_size": 7, "bits": 3}):
        packed = build(name, **args).compress(weight, stats)
        assert packed.stored_bytes() == build("rtn", **args).compress(weight).stored_bytes()


def test_the_inputs_of_compressed_layers_are_asked_for_by_a_knob():
    assert not build("gptq").sequential
    assert build("gptq", inputs="compressed").sequential


# awq


def test_awq_counts_its_scales_and_is_rtn_without():
    weight, stats = normal(6, 40), layer_stats((6, 40))
    plain = build("rtn").compress(weight)
    scaled = build("awq", alpha=0.5).compress(weight, stats)
    assert scaled.stored_bytes() == plain.stored_bytes() + 2 * 40
    unscaled = build("awq", alpha=0.0, clip=False).compress(weight, stats)
    assert unscaled.stored_bytes() == plain.stored_bytes()
    assert torch.equal(unscaled.dense(), plain.dense())
    with pytest.raises(InvalidSetting, match="known after"):
        build("awq").layout((6, 40))


@pytest.mark.parametrize("alpha", [-0.5, -0.01, 1.5, -2.0])
def test_awq_takes_no_power_but_those_from_0_to_1(alpha):
    with pytest.raises(InvalidSetting, match=r"awq\.alpha: expected"):
        build("awq", alpha=alpha)
    assert build("awq", alpha=-1.0) == build("awq")


def test_awq_protects_what_large_inputs_meet():
    weight = normal(32, 64)
    size = torch.ones(64)
    size[:4] = 50
    inputs = InputStats(torch.diag(size**2)[None], torch.zeros(1, 64), size[None], 1)
    packed = build("awq", clip=False).compress(weight, LayerStats(inputs))
    ours, plain = (
        (weight - dense).square()[:, :4].mean()
        for dense in (packed.dense(), build("rtn").compress(weight).dense())
    )
    assert packed.method.alpha > 0
    assert ours < 0.7 * plain


# yaqa


def test_yaqa_of_white_gradients_is_gptq():
    shape = (TILE + 12, TILE + 9)
    weight, inputs = normal(*shape), layer_stats(shape, needs=("inputs",)).inputs
    stats = LayerStats(inputs, GradientStats(weight, 3.0 * torch.eye(shape[0])))
    ours, one_way = (build(n, bits=3).compress(weight, stats).dense() for n in ("yaqa", "gptq"))
    assert (ours == one_way).float().mean() > 0.99


def test_yaqa_makes_the_two_sided_error_small():
    shape = (TILE + 12, 40)
    weight, stats = normal(*shape), layer_stats(shape)
    mix = normal(shape[0], shape[0], seed=5) / math.sqrt(shape[0])
    outer = mix @ mix.T + 0.01 * torch.eye(shape[0])
    stats = LayerStats(stats.inputs, GradientStats(weight, outer))

    def error(name):
        left = weight - build(name, bits=3).compress(weight, stats).dense()
        return float((outer @ left @ stats.inputs.second_moment[0] * left).sum())

    assert error("yaqa") < 0.7 * error("gptq")


def test_yaqa_leaves_of_each_entry_only_its_own_rounding():
    """``(I + V)^T E (I + U)`` is within half a step everywhere, on a grid that clips nothing."""
    rows, columns = TILE + 5, TILE + 3
    weight = normal(rows, columns)
    upper = unit_upper(layer_stats((1, columns)).inputs.second_moment, 0.01)
    outer = unit_upper(layer_stats((1, rows), seed=2).inputs.second_moment, 0.01)
    step = torch.full((1, columns, rows), 0.25)
    grid = Grid(step[0], step, torch.full_like(step, 1 << 15), 1 << 16)
    codes = round_diagonals(weight.T[None].contiguous(), grid, upper, outer[0])
    left = (weight - grid.points(codes)[0].T).double()
    both = (torch.eye(rows) + outer[0]).double().T @ left @ (torch.eye(columns) + upper[0]).double()
    assert both.abs().max() <= 0.125 * (1 + 1e-3)
