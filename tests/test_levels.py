"""Smaller forms inside larger ones: what every method that has them promises, and what they are."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import layer_stats, variants

from compression.methods import METHODS, chain
from compression.methods.base import CompressedWeight
from compression.methods.levels import Croppable, Nested

SHAPES = [(5, 7), (16, 12), (4, 3, 3, 3), (3, 1, 1, 1)]
CHAINS = [
    chain([METHODS.build(first, args), METHODS.build(then, more)])
    for first, args in (
        ("svd", {"rank": 6}),
        ("svd_cascade", {"pairs": 3, "rank": 2, "factor_bits": 32}),
        ("block_svd", {"rank": 2, "tile": 5}),
        ("magnitude", {}),
        ("n_m", {}),
    )
    for then, more in (
        ("rtn", {"bits": 5}),
        ("rtn", {"bits": 4, "mode": "asymmetric", "group_size": 4}),
        ("nf4", {}),
        ("nf4", {"double": True}),
        ("int1", {"passes": 3}),
    )
]
NESTED = [m for m in variants(METHODS) if isinstance(m, Nested)] + CHAINS


def normal(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def levels_of(packed):
    """The full form and every level, each as a packed weight."""
    method, shape, state = packed.method, packed.shape, packed.state()
    if not isinstance(method, Nested):
        return [packed]
    return [packed] + [
        CompressedWeight(level, shape, method.at_level(state, shape, level))
        for level in method.levels(shape)
    ]


@pytest.mark.parametrize("method", NESTED, ids=str)
def test_contract(method):
    for shape in SHAPES:
        packed = method.compress(normal(shape), layer_stats(shape))
        if not isinstance(packed.method, Nested):
            continue  # what it stores is another method's: welore's is svd
        before = packed.dense()
        found = levels_of(packed)  # tensors match their layouts, or this raises
        assert torch.equal(packed.dense(), before)
        assert len({str(one.method) for one in found}) == len(found)
        sizes = [one.stored_bytes() for one in found]
        assert all(more > less for more, less in zip(sizes, sizes[1:], strict=False))
        errors = [float((one.dense() - before).double().square().sum()) for one in found]
        slack = 1e-5 * float(before.double().square().sum())
        assert all(a <= b + slack for a, b in zip(errors, errors[1:], strict=False))
        levels = packed.method.levels(shape)
        told = packed.method.level_errors(packed.state(), shape, levels)
        assert told == pytest.approx(errors[1:], rel=1e-4, abs=slack)
        for one in found:
            for tensor in one.state().values():
                assert tensor.is_contiguous()
            # A level's levels are the lower ones of the whole, bit for bit where they are cut.
            again = levels_of(one)
            assert [x.method for x in again] == [x.method for x in found[-len(again) :]]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_stored_by_other_methods_keeps_its_levels(name):
    packed = METHODS.build(name).compress(normal((8, 8)), layer_stats((8, 8)))
    for one in levels_of(packed):
        assert one.dense().shape == (8, 8)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
def test_a_cut_svd_is_the_truncated_one_to_the_last_bit(rows, columns, seed):
    weight = normal((rows, columns), seed)
    rank = min(rows, columns)
    found = levels_of(METHODS.build("svd", {"rank": rank}).compress(weight))
    assert len(found) == rank
    squares = torch.linalg.svdvals(weight.double()).square()
    for k, one in zip(range(rank, 0, -1), found, strict=True):
        alone = METHODS.build("svd", {"rank": k}).compress(weight)
        assert one.method == alone.method
        assert all(torch.equal(t, one.state()[n]) for n, t in alone.state().items())
        # Eckart-Young.
        error = float((one.dense() - weight).double().square().sum())
        assert error == pytest.approx(float(squares[k:].sum()), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("scale", ["row", "group"])
@pytest.mark.parametrize("shape", SHAPES)
def test_fewer_passes_are_those_that_fewer_would_have_made(shape, scale):
    weight = normal(shape)
    found = levels_of(METHODS.build("int1", {"scale": scale, "passes": 4}).compress(weight))
    for passes, one in zip((4, 3, 2, 1), found, strict=True):
        alone = METHODS.build("int1", {"scale": scale, "passes": passes}).compress(weight)
        assert one.method == alone.method
        assert all(torch.equal(t, one.state()[n]) for n, t in alone.state().items())


@pytest.mark.parametrize("bits", [3, 4, 16, 32])
def test_fewer_pairs_are_those_that_fewer_would_have_made(bits):
    weight = normal((20, 12))
    args = {"rank": 2, "factor_bits": bits}
    found = levels_of(METHODS.build("svd_cascade", {**args, "pairs": 3}).compress(weight))
    for pairs, one in zip((3, 2, 1), found, strict=True):
        alone = METHODS.build("svd_cascade", {**args, "pairs": pairs}).compress(weight)
        assert one.method == alone.method
        assert all(torch.equal(t, one.state()[n]) for n, t in alone.state().items())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 8),
    st.sampled_from(["symmetric", "asymmetric"]),
    st.integers(0, 99),
    st.sampled_from([-3.0, 0.0, 3.0]),
)
def test_fewer_bits_never_bring_an_entry_nearer_to_its_own(bits, mode, seed, mean):
    weight = normal((4, 9), seed) + mean
    args = {"bits": bits, "mode": mode, "group_size": 4, "scale_dtype": "float32"}
    full, *below = levels_of(METHODS.build("rtn", args).compress(weight))
    before = torch.zeros_like(weight)
    for one in below:
        away = (one.dense() - full.dense()).abs()
        assert bool((away >= before - 1e-6).all())
        before = away


def test_eight_bits_cut_to_four_are_near_to_four_bits_at_once():
    weight = normal((64, 64))

    def error(packed):
        return 20 * math.log10(float((packed.dense() - weight).norm() / weight.norm()))

    found = {
        one.method.bits: one
        for one in levels_of(METHODS.build("rtn", {"bits": 8}).compress(weight))
    }
    for bits, one in found.items():
        alone = error(METHODS.build("rtn", {"bits": bits}).compress(weight))
        # At 7 bits half of the codes lie midway between two that are left: s^2 / 2 more.
        assert error(one) < alone + (3 if bits > 5 else 0.5)


@pytest.mark.parametrize(
    "method", [m for m in variants(METHODS) if isinstance(m, Croppable)], ids=str
)
def test_a_cropped_matrix_decodes_to_the_same_values(method):
    shape = (6, 11)
    packed = method.compress(normal(shape))
    for to in [(6, 11), (6, 4), (2, 11), (3, 5), (1, 1)]:
        if method.crops:
            tensors = packed.method.crop(packed.state(), shape, to)
            alone = CompressedWeight(packed.method, to, tensors)
            assert torch.equal(alone.dense(), packed.dense()[: to[0], : to[1]])


def test_a_chain_of_low_rank_and_codes_goes_down_in_rank_without_new_rounding():
    weight = normal((12, 10))
    full, *below = levels_of(
        chain([METHODS.build("svd", {"rank": 6}), METHODS.build("rtn")]).compress(weight)
    )
    factors = full.method._unpacked(full.state(), (12, 10))
    for one, rank in zip(below, (5, 4, 3, 2, 1), strict=True):
        wanted = factors["left"][:, :rank] @ factors["right"][:rank]
        torch.testing.assert_close(one.dense(), wanted, rtol=0, atol=1e-6)
