"""The mathematics of each method: bounds, optima and exact byte counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.adapters import ADAPTERS
from compression.methods import METHODS
from compression.packing import packed_bytes
from compression.precision import narrow, narrow_up
from compression.registry import InvalidSetting


def build(name, **args):
    return METHODS.build(name, args)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


matrices = st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(0, 1000))


@settings(deadline=None)
@given(
    matrices,
    st.integers(2, 8),
    st.sampled_from(["symmetric", "asymmetric"]),
    st.sampled_from([0, 1, 3, 8, 64]),
    st.sampled_from([1e-8, 1e-3, 1.0, 1e3]),
)
def test_rtn_error_is_at_most_half_a_stored_step(matrix, bits, mode, group_size, magnitude):
    rows, columns, seed = matrix
    weight = (normal(rows, columns, seed=seed) + 0.5) * magnitude
    packed = build("rtn", bits=bits, mode=mode, group_size=group_size).compress(weight)
    size = min(group_size or columns, columns)
    step = packed.state()["scale"].float().repeat_interleave(size, 1)[:, :columns]
    error = (weight - packed.dense()).abs()
    assert (error <= step / 2 * (1 + 1e-4)).all()
    groups = -(-columns // size)
    expected = packed_bytes(bits * rows * columns, 1) + 2 * rows * groups
    if mode == "asymmetric":
        expected += packed_bytes(rows * groups, bits)
    assert packed.stored_bytes() == expected


@pytest.mark.parametrize("mode", ["symmetric", "asymmetric"])
def test_rtn_keeps_zero_and_every_point_of_its_grid(mode):
    # 1/8 is exact in every dtype here, so a weight on the grid comes back bit by bit; the end is
    # half a step from a point of the symmetric grid.
    grid = torch.arange(-7, 8).float() / 8
    ends = {"symmetric": [-0.9375], "asymmetric": [-0.875, 1.0]}[mode]
    packed = build("rtn", bits=4, mode=mode).compress(torch.cat([torch.tensor(ends), grid])[None])
    assert torch.equal(packed.dense().flatten()[len(ends) :], grid)
    sparse = normal(6, 10) * (normal(6, 10, seed=1) > 0)
    dense = build("rtn", bits=2, mode=mode).compress(sparse).dense()
    assert (dense[sparse == 0] == 0).all()


def test_rtn_asymmetric_is_finer_where_all_weights_have_one_sign():
    weight = normal(8, 32).abs() + 1
    errors = {
        mode: (weight - build("rtn", mode=mode).compress(weight).dense()).norm()
        for mode in ("symmetric", "asymmetric")
    }
    assert errors["asymmetric"] < 0.6 * errors["symmetric"]


@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
def test_rtn_meets_its_floor_in_decibels(bits):
    weight = normal(64, 64)
    error = weight - build("rtn", bits=bits).compress(weight).dense()
    decibels = 20 * math.log10(weight.norm() / error.norm())
    assert decibels > 6 * bits - 10


@settings(deadline=None)
@given(matrices, st.sampled_from([2, 3, 8, 64]))
def test_int1_scale_is_the_least_squares_optimum(matrix, group_size):
    rows, columns, seed = matrix
    weight = normal(rows, columns, seed=seed)
    method = build("int1", scale="group", group_size=group_size, scale_dtype="float32")
    packed = method.compress(weight)
    signs = torch.where(weight >= 0, 1.0, -1.0)
    for group in range(packed.state()["scale"].shape[1]):
        size = min(group_size, columns)
        part = slice(group * size, (group + 1) * size)
        best = (weight[:, part] * signs[:, part]).sum(1) / signs[:, part].square().sum(1)
        torch.testing.assert_close(packed.state()["scale"][:, group], best)
    groups = -(-columns // min(group_size, columns))
    assert packed.stored_bytes() == packed_bytes(rows * columns, 1) + 4 * rows * groups


def test_int1_has_two_values_and_zero_counts_as_positive():
    dense = build("int1", scale="none").compress(torch.tensor([[0.0, -0.0, -2.0, 3.0]])).dense()
    assert dense.tolist() == [[1.0, 1.0, -1.0, 1.0]]


def test_int1_residuals_of_a_normal_matrix():
    # E|w - s sign(w)|^2 / E w^2 = 1 - 2/pi with the row scale; without it sigma decides.
    weight = 0.07 * normal(256, 512)
    scaled = (weight - build("int1").compress(weight).dense()).norm() / weight.norm()
    plain = (weight - build("int1", scale="none").compress(weight).dense()).norm() / weight.norm()
    assert scaled == pytest.approx(math.sqrt(1 - 2 / math.pi), rel=0.01)
    expected = math.sqrt(1 - 2 * math.sqrt(2 / math.pi) / 0.07 + 1 / 0.07**2)
    assert plain == pytest.approx(expected, rel=0.01)


@settings(deadline=None)
@given(
    matrices,
    st.sampled_from([(4, 4), (3, 3), (1, 16), (2, 1), (20, 20)]),
    st.integers(1, 2),
)
def test_block_sparse_keeps_the_largest_of_each_tile(matrix, tile, keep):
    rows, columns, seed = matrix
    high, wide = tile
    weight = normal(rows, columns, seed=seed)
    method = build("block_sparse", tile_rows=high, tile_cols=wide, keep=keep)
    packed = method.compress(weight)
    dense = packed.dense()
    kept = dense != 0
    assert torch.equal(dense[kept], weight[kept])
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            inside = (slice(top, top + high), slice(left, left + wide))
            magnitudes = weight[inside].abs().flatten()
            expected = magnitudes.topk(min(keep, magnitudes.numel())).values
            found = dense[inside].abs().flatten()
            assert torch.equal(found[found > 0].sort().values, expected.sort().values)
    tiles = -(-rows // high) * -(-columns // wide)
    bits = math.ceil(math.log2(high * wide))
    assert packed.stored_bytes() == 4 * tiles * keep + packed_bytes(tiles * keep, bits)


def test_block_sparse_keeps_large_negatives_and_the_first_of_ties():
    method = build("block_sparse", tile_rows=1, tile_cols=4)
    dense = method.compress(torch.tensor([[1.0, -9.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])).dense()
    assert dense.tolist() == [[0, -9, 0, 0], [5, 0, 0, 0]]


def test_block_sparse_nominal_bits_are_those_of_published_tables():
    method = build("block_sparse", tile_rows=4, tile_cols=4, keep=1)
    assert method.nominal_bits((1000, 512)) * 16 == 32 * 1000 * 512


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"tile_rows": 1, "tile_cols": 1}, "at least two"),
        ({"tile_rows": 1, "tile_cols": 4, "keep": 5}, "at most the 4"),
    ],
)
def test_block_sparse_refuses_tiles_that_cannot_be(args, message):
    with pytest.raises(InvalidSetting, match=message):
        build("block_sparse", **args)


@settings(deadline=None)
@given(matrices, st.integers(1, 12))
def test_svd_meets_eckart_young(matrix, rank):
    rows, columns, seed = matrix
    weight = normal(rows, columns, seed=seed)
    packed = build("svd", rank=rank).compress(weight)
    left_out = torch.linalg.svdvals(weight)[rank:].norm()
    error = (weight - packed.dense()).norm()
    assert error == pytest.approx(float(left_out), abs=1e-4)
    used = min(rank, rows, columns)
    assert packed.method.rank == used
    assert packed.stored_bytes() == 4 * used * (rows + columns)
    assert packed.macs() == used * (rows + columns)


@settings(deadline=None)
@given(matrices, st.floats(0.0, 1.0))
def test_svd_by_energy_takes_the_least_rank_that_holds_it(matrix, energy):
    rows, columns, seed = matrix
    weight = normal(rows, columns, seed=seed)
    rank = build("svd", energy=energy).compress(weight).method.rank
    squares = torch.linalg.svdvals(weight).double().square()
    assert squares[:rank].sum() >= (energy - 1e-9) * squares.sum()
    if rank > 1:
        assert squares[: rank - 1].sum() < (energy + 1e-9) * squares.sum()


def test_svd_factors_share_the_singular_values():
    state = build("svd", rank=3).compress(normal(8, 5)).state()
    gram = state["left"].T @ state["left"]
    torch.testing.assert_close(gram, state["right"] @ state["right"].T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gram, gram.diag().diag(), atol=1e-5, rtol=1e-5)


def test_svd_by_energy_has_no_layout_before_it_is_compressed():
    with pytest.raises(InvalidSetting, match="known after"):
        build("svd").layout((4, 4))


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_cast_relative_error(dtype, bound):
    weight = normal(50, 50)
    error = (weight - build("cast", dtype=dtype).compress(weight).dense()).abs()
    assert (error <= bound * weight.abs() + 2**-25).all()


@pytest.mark.parametrize("name", ["cast", "int1", "rtn"])
def test_overflow_is_refused(name):
    with pytest.raises(InvalidSetting, match="float16 cannot hold .*; store it in float32"):
        build(name).compress(torch.full((2, 2), 1e8))


@given(st.lists(st.floats(0, 6e4, width=32), min_size=1))
def test_scales_never_shrink_when_narrowed_up(values):
    scales = torch.tensor(values)
    up, nearest = narrow_up(scales, torch.float16), narrow(scales, torch.float16)
    assert (up.float() >= scales).all()
    assert ((up == nearest) | (nearest.float() < scales)).all()


@pytest.mark.parametrize(
    ("name", "args", "bits"),
    [
        ("none", {}, 32),
        ("cast", {}, 16),
        ("int1", {}, 1),
        ("rtn", {"bits": 3}, 3),
        ("svd", {"rank": 2}, 32 * 2 * (10 + 20) / 200),
    ],
)
def test_nominal_bits_count_values_only(name, args, bits):
    assert build(name, **args).nominal_bits((10, 20)) == bits * 200


@pytest.mark.parametrize(
    ("rank", "published"),
    [(2, 26.91), (4, 23.22), (8, 18.22), (16, 12.74), (32, 7.95), (64, 4.54), (128, 2.44)],
)
def test_nominal_ratio_reproduces_the_published_int1_table(rank, published):
    shape = (1000, 512)
    adapter = ADAPTERS.build("lora").nominal_bits({"fc": (shape, rank)})
    ratio = 32 * 1000 * 512 / (build("int1", scale="none").nominal_bits(shape) + adapter)
    assert ratio == pytest.approx(published, abs=0.006)
