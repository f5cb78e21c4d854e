"""What each init promises: shapes, guarantee against zeros, identities."""

import itertools
import math
from functools import partial

import pytest
import torch
from networks import generator, layer_stats, variants

from compression.inits import INITS
from compression.inits.lq_lora import fisher_weights
from compression.methods import METHODS
from compression.second_moments import by_group, row_errors
from compression.stats import InputStats, LayerStats

SHAPES = [(12, 20), (20, 12), (1, 9), (6, 2, 3, 3)]


def weight_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(weight, start):
    delta = (start.B @ start.A).view_as(weight)
    return float((weight - start.base.dense() - delta).norm())


def activation_errors(weight, start, stats):
    """Of each group, the root of the mean squared change of its outputs, ``tr(E_g H_g E_g^T)``."""
    change = (weight - start.base.dense()).flatten(1) - start.B @ start.A
    moment = stats.inputs.second_moment
    squares = row_errors(by_group(change, len(moment)), moment).sum((1, 2))
    return squares.clamp(min=0).sqrt()


def activation_error(weight, start, stats):
    """Root of the mean squared change of all the layer's outputs."""
    return float(activation_errors(weight, start, stats).norm())


def fisher_error(weight, start, stats):
    """The norm of lq_lora: rows and columns weighted by the mean roots of the Fisher."""
    rows, columns = fisher_weights(stats)
    change = (weight - start.base.dense()).flatten(1) - start.B @ start.A
    return float((rows[:, None] * change * columns).norm())


def run(init, method, weight, rank, stats=None):
    stats = stats or layer_stats(tuple(weight.shape))
    compress = partial(method.compress, stats=stats)
    return init.start(weight, compress, rank, stats, generator())


def cases():
    """(init, method, shape): what a variant of one does with a plain other, and all defaults.

    The shapes take turns among the pairs, so that each plugin meets all of them.
    """
    inits, methods = [INITS.build(n) for n in INITS], [METHODS.build(n) for n in METHODS]
    found = [(init, METHODS.build("rtn"), s) for init in variants(INITS) for s in SHAPES]
    pairs = [(inits, methods), ([INITS.build("residual")], variants(METHODS))]
    for firsts, seconds in pairs:
        for (i, init), (j, method) in itertools.product(enumerate(firsts), enumerate(seconds)):
            found.append((init, method, SHAPES[(i + j) % len(SHAPES)]))
    return list(dict.fromkeys(found))


# The contract: a new init, or a new method, meets these with no new line here.


@pytest.mark.parametrize(("init", "method", "shape"), cases(), ids=str)
def test_contract(init, method, shape):
    weight = weight_of(shape)
    before = weight.clone()
    rank = min(3, shape[0], weight[0].numel())
    start = run(init, method, weight, rank)
    assert torch.equal(weight, before)
    assert start.B.shape == (shape[0], rank)
    assert start.A.shape == (rank, weight[0].numel())
    assert start.base.shape == shape
    assert start.B.dtype == start.A.dtype == torch.float32

    again = run(init, method, weight, rank)
    assert torch.equal(start.A, again.A)
    assert torch.equal(start.B, again.B)

    if type(init).guarantee == "frobenius":
        zeros = run(INITS.build("zeros"), method, weight, rank)
        assert error(weight, start) <= error(weight, zeros) * (1 + 1e-5) + 1e-6
    if type(init).guarantee == "activation":
        stats = layer_stats(shape)
        zeros = activation_error(weight, run(INITS.build("zeros"), method, weight, rank), stats)
        assert activation_error(weight, start, stats) <= zeros * (1 + 1e-4) + 1e-5
    if type(init).guarantee == "fisher":
        stats = layer_stats(shape)
        zeros = fisher_error(weight, run(INITS.build("zeros"), method, weight, rank), stats)
        assert fisher_error(weight, start, stats) <= zeros * (1 + 1e-5) + 1e-6

    # No direction in which both factors are zero: neither would ever get a gradient.
    assert ((start.A != 0).any(1) | (start.B != 0).any(0)).all()


GROUPED = [(2, (4, 4, 1, 1)), (2, (8, 3, 3, 3)), (6, (6, 1, 3, 3))]


def unequal_groups(groups, shape, seed):
    """Statistics of groups with few inputs each, those of the last ten times those of the first."""
    made, columns = torch.Generator().manual_seed(seed), math.prod(shape[1:])
    sizes = torch.logspace(0, 1, groups)[:, None, None]
    x = torch.randn(groups, 2, columns, generator=made) * sizes
    moment = x.transpose(1, 2) @ x / 2
    return LayerStats(InputStats(moment, x.mean(1), x.abs().mean(1), 2))


@pytest.mark.parametrize(("groups", "shape"), GROUPED, ids=str)
@pytest.mark.parametrize("name", [n for n in INITS if INITS[n].guarantee == "activation"])
def test_groups_with_inputs_of_their_own_are_no_further_off_than_with_zeros(name, groups, shape):
    method = METHODS.build("rtn", {"bits": 2})
    # Of the first iterate no group loses; of the best of more, all of them together do not.
    args = {"iterations": 1} if name == "loftq_act" else {}
    for seed in range(20):
        weight, stats = weight_of(shape, seed), unequal_groups(groups, shape, seed)
        zeros = run(INITS.build("zeros"), method, weight, 1, stats)
        least = activation_errors(weight, zeros, stats)
        start = run(INITS.build(name, args), method, weight, 1, stats)
        assert (activation_errors(weight, start, stats) <= least * (1 + 1e-4) + 1e-5).all()
        assert ((start.A != 0).any(1) | (start.B != 0).any(0)).all()
        start = run(INITS.build(name), method, weight, 1, stats)
        assert activation_error(weight, start, stats) <= float(least.norm()) * (1 + 1e-4)


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize("weight", [torch.zeros(6, 4), torch.ones(6, 4)], ids=["zero", "rank one"])
def test_degenerate_weights_start_finite_and_alive(name, weight):
    start = run(INITS.build(name), METHODS.build("rtn"), weight, 3)
    assert torch.isfinite(start.A).all()
    assert torch.isfinite(start.B).all()
    assert ((start.A != 0).any(1) | (start.B != 0).any(0)).all()


# The mathematics.


def test_zeros_starts_as_the_compressed_weight():
    weight = weight_of((8, 12))
    start = run(INITS.build("zeros"), METHODS.build("rtn"), weight, 4)
    assert not start.B.any()
    assert start.A.abs().max() <= 12**-0.5
    assert torch.equal(start.base.dense(), METHODS.build("rtn").compress(weight).dense())


@pytest.mark.parametrize("name", METHODS)
def test_residual_leaves_the_tail_of_the_compression_error(name):
    weight, rank = weight_of((16, 24)), 5
    start = run(INITS.build("residual"), METHODS.build(name), weight, rank)
    left = torch.linalg.svdvals(weight - start.base.dense())
    assert error(weight, start) == pytest.approx(float(left[rank:].norm()), abs=1e-4)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 3), (5, 4)])
def test_svd_then_residual_is_the_truncated_svd_of_the_sum_of_ranks(first, second):
    weight = weight_of((14, 18))
    method = METHODS.build("svd", {"rank": first})
    start = run(INITS.build("residual"), method, weight, second)
    u, s, vh = torch.linalg.svd(weight)
    rank = first + second
    whole = u[:, :rank] * s[:rank] @ vh[:rank]
    torch.testing.assert_close(start.base.dense() + start.B @ start.A, whole, atol=1e-5, rtol=1e-5)


def test_residual_of_full_rank_restores_the_weight():
    weight = weight_of((6, 10))
    start = run(INITS.build("residual"), METHODS.build("int1"), weight, 6)
    torch.testing.assert_close(start.base.dense() + start.B @ start.A, weight)


def test_pissa_puts_the_principal_part_in_the_adapter_and_compresses_the_rest():
    weight, rank = weight_of((10, 16)), 3
    start = run(INITS.build("pissa"), METHODS.build("none"), weight, rank)
    s = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(start.B @ start.A)[:rank], s[:rank])
    torch.testing.assert_close(torch.linalg.svdvals(start.base.dense())[:7], s[rank:])
    torch.testing.assert_close(start.base.dense() + start.B @ start.A, weight)


def test_loftq_of_one_iteration_is_residual_and_more_never_worse():
    weight, method = weight_of((24, 24)), METHODS.build("rtn", {"bits": 3})
    residual = run(INITS.build("residual"), method, weight, 4)
    errors = []
    for iterations in (1, 2, 5, 10):
        start = run(INITS.build("loftq", {"iterations": iterations}), method, weight, 4)
        errors.append(error(weight, start))
    assert errors[0] == pytest.approx(error(weight, residual))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("name", ["residual", "pissa"])
def test_factors_share_the_singular_values(name):
    start = run(INITS.build(name), METHODS.build("rtn"), weight_of((9, 7)), 3)
    torch.testing.assert_close(start.B.T @ start.B, start.A @ start.A.T, atol=1e-5, rtol=1e-5)
