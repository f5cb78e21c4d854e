"""Low-rank methods of the weight alone: optima, identities and exact bytes."""

import pytest
import torch
from networks import layer_stats
from torch import nn

from compression.ere import ere_delta, restored
from compression.methods import METHODS
from compression.methods.base import Scene
from compression.methods.chain import chain
from compression.methods.low_rank.factors import thin_svd
from compression.packing import packed_bytes
from compression.registry import InvalidSetting

CONV = (8, 6, 3, 3)


def build(name, **args):
    return METHODS.build(name, args)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_rank(rank, rows, columns):
    return normal(rows, rank) @ normal(rank, columns, seed=1)


def error(packed, weight):
    return float((weight - packed.dense()).norm())


def close(value, rel=1e-4):
    return pytest.approx(float(value), rel=rel, abs=1e-4)


def tail(matrix, rank):
    return torch.linalg.svdvals(matrix.double())[rank:].norm()


# svd and what it rests on


@pytest.mark.parametrize("shape", [(30, 70), (70, 30), (5, 5), (1, 9), (9, 1), (3, 20, 40)])
def test_thin_svd_is_as_exact_as_the_svd(shape):
    matrix = normal(*shape)
    u, s, vh = thin_svd(matrix)
    torch.testing.assert_close(u * s[..., None, :] @ vh, matrix, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(s, torch.linalg.svdvals(matrix.double()).float())
    torch.testing.assert_close(
        u.mT @ u, torch.eye(s.shape[-1]).expand_as(u.mT @ u), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "name", ["svd", "whitened_svd", "afm", "utilized_rank", "cur", "kronecker", "block_svd", "cp"]
)
def test_floats_of_each_form_can_be_packed_by_a_next_method(name):
    weight = normal(*CONV)
    alone = build(name, rank=4).compress(weight, layer_stats(CONV))
    both = chain([build(name, rank=4), build("rtn", bits=8)]).compress(weight, layer_stats(CONV))
    assert both.stored_bytes() < alone.stored_bytes()
    torch.testing.assert_close(both.dense(), alone.dense(), atol=0.1, rtol=0.1)


# svd_cascade


def test_pairs_in_floats_are_one_svd():
    weight = normal(30, 40)
    cascade = build("svd_cascade", pairs=3, rank=4, factor_bits=32).compress(weight)
    whole = build("svd", rank=12).compress(weight)
    torch.testing.assert_close(cascade.dense(), whole.dense(), atol=1e-5, rtol=1e-5)
    assert cascade.stored_bytes() == whole.stored_bytes() == 4 * 12 * 70


def test_pairs_in_floats_end_at_full_rank():
    weight = normal(6, 40)
    packed = build("svd_cascade", pairs=4, rank=4, factor_bits=32).compress(weight)
    assert packed.stored_bytes() == 4 * 6 * 46
    assert error(packed, weight) < 1e-4


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_quantised_pairs_make_up_for_rounding(bits, seed):
    weight = normal(64, 96, seed=seed)
    made = [
        build("svd_cascade", pairs=k, rank=24 // k, factor_bits=bits).compress(weight)
        for k in (1, 4, 8)
    ]
    errors = [error(packed, weight) for packed in made]
    assert len({packed.stored_bytes() for packed in made}) == 1
    assert errors[1] < errors[0]
    assert errors[2] < errors[0]


@pytest.mark.parametrize("bits", [2, 4, 16, 32])
def test_one_more_pair_never_harms(bits):
    weight = normal(20, 30)
    errors = [
        error(build("svd_cascade", pairs=k, rank=2, factor_bits=bits).compress(weight), weight)
        for k in range(1, 10)
    ]
    assert all(b <= a + 1e-5 for a, b in zip(errors, errors[1:], strict=False))


def test_cascade_bytes_and_share():
    weight, total = normal(20, 37), 2 * 3
    packed = build("svd_cascade", rank=3, factor_bits=4, group_size=16).compress(weight)
    codes = packed_bytes(total * 20, 4) + packed_bytes(total * 37, 4)
    assert packed.stored_bytes() == codes + 2 * total * (2 + 3)
    for share in (0.2, 0.5, 0.9):
        method = build("svd_cascade", pairs=1, share=share, factor_bits=32)
        values = method.compress(normal(40, 60)).stored_bytes() / 4
        assert share * 2400 - 100 < values <= share * 2400


def test_cascade_says_where_a_knob_is_inert_or_saves_nothing():
    scene = Scene(nn.Identity(), {"fc": nn.Linear(6, 6)})
    notes = build("svd_cascade", rank=1, factor_bits=32).plan(scene).notes
    assert len(notes) == 1
    assert "no effect" in notes[0]
    assert not build("svd_cascade", rank=1).plan(scene).notes
    notes = build("svd_cascade", rank=2).plan(scene).notes
    assert len(notes) == 1
    assert "fc has no fewer values at rank 4" in notes[0]


# cur


@pytest.mark.parametrize("weigh", ["none", "inputs"])
def test_cur_is_exact_where_rank_allows_and_made_of_real_entries(weigh):
    weight, stats = of_rank(4, 12, 20), layer_stats((12, 20))
    packed = build("cur", rank=4, weigh=weigh).compress(weight, stats)
    torch.testing.assert_close(packed.dense(), weight, atol=1e-3, rtol=1e-3)
    state = packed.state()
    for rows, whole in ((state["rows"], weight), (state["columns"].T, weight.T)):
        assert all((row == whole).all(1).any() for row in rows)
    assert packed.stored_bytes() == 4 * 4 * 32 + 4 * 16
    assert packed.macs() == 4 * 32 + 16


def test_cur_core_is_the_best_for_its_columns_and_rows():
    weight = normal(12, 20)
    state = build("cur", rank=5, select="norm").compress(weight).state()
    core = torch.linalg.pinv(state["columns"]) @ weight @ torch.linalg.pinv(state["rows"])
    torch.testing.assert_close(state["core"], core, atol=1e-4, rtol=1e-3)
    largest = weight.norm(dim=1).topk(5).values
    torch.testing.assert_close(state["rows"].norm(dim=1), largest)


def test_cur_takes_embeddings_unless_it_looks_at_inputs():
    assert "embedding" in build("cur").kinds
    assert not build("cur").needs
    assert "embedding" not in build("cur", weigh="inputs").kinds


# dsformer


def test_dsformer_dense_is_plain_factoring():
    weight = normal(14, 30)
    packed = build("dsformer", rank=5, keep=1.0).compress(weight)
    assert error(packed, weight) == close(tail(weight, 5))
    assert packed.stored_bytes() == 4 * 5 * 44


@pytest.mark.parametrize(("block", "columns"), [(1, 30), (8, 30), (64, 30)])
def test_dsformer_has_c_nonzeros_a_column_and_these_bytes(block, columns):
    weight = normal(14, columns)
    packed = build("dsformer", rank=8, keep=0.25, block=block).compress(weight)
    sparse = packed.method._sparse(packed.state(), (14, columns))
    assert ((sparse != 0).sum(0) == 2).all()
    for part in sparse.split(block, 1):
        assert ((part != 0).any(1).sum()) == 2
    indices = packed_bytes(-(-columns // block) * 2, 3)
    assert packed.stored_bytes() == 4 * (14 * 8 + 2 * columns) + indices


def test_dsformer_more_iterations_never_harm():
    weight = normal(24, 64)
    errors = [
        error(build("dsformer", rank=12, iterations=k).compress(weight), weight) for k in (1, 3, 9)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < weight.norm()


# Kronecker, tiles


def test_kronecker_is_exact_for_sums_of_products_and_optimal():
    weight = sum(torch.kron(normal(3, 6, seed=t), normal(4, 5, seed=t + 9)) for t in range(2))
    packed = build("kronecker", rank=2).compress(weight)
    torch.testing.assert_close(packed.dense(), weight, atol=1e-4, rtol=1e-4)
    assert packed.stored_bytes() == 4 * 2 * (3 * 6 + 4 * 5)
    assert packed.macs() == 2 * 6 * 4 * (5 + 3)
    one = build("kronecker", rank=1).compress(weight)
    a, b = one.state()["left"].view(3, 6), one.state()["right"].view(4, 5)
    torch.testing.assert_close(one.dense(), torch.kron(a, b), atol=1e-5, rtol=1e-5)


def test_kronecker_of_primes_is_svd():
    weight = normal(7, 13)
    found = build("kronecker", rank=2).compress(weight)
    assert found.stored_bytes() == 4 * 2 * (7 + 13)
    torch.testing.assert_close(
        found.dense(), build("svd", rank=2).compress(weight).dense(), atol=1e-5, rtol=1e-5
    )


def test_block_svd_is_the_svd_of_each_tile():
    weight = normal(20, 30)
    packed = build("block_svd", tile=8, rank=2).compress(weight)
    squares = sum(
        float(tail(tile, 2)) ** 2 for band in weight.split(8, 0) for tile in band.split(8, 1)
    )
    assert error(packed, weight) == close(squares**0.5)
    assert packed.stored_bytes() == 4 * (3 * 4) * 2 * (8 + 8)
    assert packed.macs() == 3 * 4 * 2 * 16
    one = build("block_svd", tile=64, rank=3).compress(weight)
    assert one.stored_bytes() == build("svd", rank=3).compress(weight).stored_bytes()
    assert error(one, weight) == close(tail(weight, 3))


# All of them


@pytest.mark.parametrize(
    "name", ["svd", "cur", "kronecker", "block_svd", "svd_cascade", "dsformer", "cp", "afm"]
)
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (5, 7), (6, 1, 3, 3)], ids=str)
def test_a_rank_is_clamped_to_the_layer(name, shape):
    packed = build(name, rank=1000).compress(normal(*shape), layer_stats(shape))
    assert packed.method.rank <= 9
    assert METHODS.build(name, packed.method.args()).layout(shape) == packed.method.layout(shape)


def test_rank_deficient_weights_come_back():
    weight = of_rank(2, 9, 12)
    stats = layer_stats((9, 12))
    for name in ("svd", "cur", "whitened_svd", "afm"):
        packed = build(name, rank=5).compress(weight, stats)
        torch.testing.assert_close(packed.dense(), weight, atol=1e-3, rtol=1e-3)


# ere


def test_ere_stores_the_change_alone_and_only_over_its_base():
    base = {"fc": normal(10, 12)}
    tuned = {"fc": base["fc"] + 0.01 * normal(10, 12, seed=1)}
    delta = ere_delta(tuned, base, build("svd", rank=3))
    assert delta.stored_bytes() == 4 * 3 * 22
    found = restored(base, delta)["fc"]
    assert float((tuned["fc"] - found).norm()) == close(tail(tuned["fc"] - base["fc"], 3))
    with pytest.raises(InvalidSetting, match="not the one"):
        restored(tuned, delta)
    with pytest.raises(InvalidSetting, match="another weight"):
        ere_delta({"fc": normal(10, 11)}, base, build("svd", rank=3))
