"""Low-rank forms of convolutions: what they recover, and exact bytes."""

import pytest
import torch

from compression.methods import METHODS
from compression.registry import InvalidSetting

CONV = (8, 6, 3, 3)


def build(name, **args):
    return METHODS.build(name, args)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(packed, weight):
    return float((weight - packed.dense()).norm())


def close(value, rel=1e-4):
    return pytest.approx(float(value), rel=rel, abs=1e-4)


def tail(matrix, rank):
    return torch.linalg.svdvals(matrix.double())[rank:].norm()


# Convolutions


def test_tucker2_error_is_what_the_core_leaves():
    weight = normal(*CONV)
    packed = build("tucker2", rank_out=4, rank_in=3).compress(weight)
    core = packed.state()["core"]
    expected = (weight.norm() ** 2 - core.norm() ** 2).sqrt()
    assert error(packed, weight) == close(expected, rel=1e-3)
    assert packed.stored_bytes() == 4 * (8 * 4 + 4 * 3 * 9 + 3 * 6)
    assert packed.macs() == 8 * 4 + 4 * 3 * 9 + 3 * 6
    hosvd = build("tucker2", rank_out=4, rank_in=3, iterations=0).compress(weight)
    assert error(packed, weight) <= error(hosvd, weight)


def test_tucker2_recovers_what_is_of_its_form_and_counts_a_matrix_as_svd():
    weight = torch.einsum("pqyx,op,qi->oiyx", normal(3, 2, 3, 3), normal(8, 3), normal(2, 6))
    packed = build("tucker2", energy=0.999999).compress(weight)
    assert (packed.method.rank_out, packed.method.rank_in) == (3, 2)
    assert error(packed, weight) < 1e-3
    matrix = normal(9, 14)
    packed = build("tucker2", rank_out=4, rank_in=4).compress(matrix)
    assert error(packed, matrix) == close(tail(matrix, 4), rel=1e-3)
    with pytest.raises(InvalidSetting, match="both, or neither"):
        build("tucker2", rank_out=4)


def test_cp_recovers_what_is_of_its_form():
    parts = [normal(size, 2, seed=seed) for seed, size in enumerate(CONV)]
    weight = torch.einsum("or,ir,yr,xr->oiyx", *parts)
    packed = build("cp", rank=2, iterations=100).compress(weight)
    assert error(packed, weight) < 0.01 * weight.norm()
    assert packed.stored_bytes() == 4 * 2 * (8 + 6 + 3 + 3)
    assert packed.macs() == 2 * 20


def test_cp_keeps_the_best_iterate_and_is_no_worse_than_zeros():
    weight = normal(*CONV)
    errors = [error(build("cp", rank=5, iterations=k).compress(weight), weight) for k in (1, 5, 25)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] <= weight.norm()
    assert build("cp").kinds == {"conv2d"}
    assert build("cp", rank=999).compress(weight).method.rank == 6 * 9
