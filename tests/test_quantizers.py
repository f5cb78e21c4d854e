"""What defines each quantiser: optima, identities, order of errors, exact bytes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.methods import METHODS
from compression.packing import pack_trits, packed_bytes, trit_bytes, unpack_trits
from compression.registry import InvalidSetting

matrices = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(0, 1000))


def build(name, **args):
    return METHODS.build(name, args)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def squared(tensor):
    return float(tensor.double().square().sum())


def groups_of(columns, size):
    return -(-columns // min(size or columns, columns))


# Base-3 packing


@given(st.lists(st.integers(0, 2), max_size=40))
def test_trits_come_back_and_five_are_a_byte(digits):
    trits = torch.tensor(digits, dtype=torch.int64)
    packed = pack_trits(trits)
    assert packed.shape == (trit_bytes(len(digits)),)
    assert unpack_trits(packed, len(digits)).tolist() == digits


def test_trits_refuse_what_they_are_not():
    with pytest.raises(ValueError, match="0, 1 or 2"):
        pack_trits(torch.tensor([3]))
    with pytest.raises(ValueError, match="5 base-3 digits are 1 bytes"):
        unpack_trits(torch.zeros(2, dtype=torch.uint8), 5)
    with pytest.raises(ValueError, match="over 242"):
        unpack_trits(torch.tensor([243], dtype=torch.uint8), 5)


# ternary


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 7), st.integers(0, 1000))
def test_ternary_is_the_best_of_all_codes_and_scales(columns, seed):
    weight = normal(1, columns, seed=seed)
    dense = build("ternary", scale_dtype="float32").compress(weight).dense()
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 0, 1])] * columns).view(-1, columns)
    fitted = (codes @ weight[0]) ** 2 / codes.square().sum(1).clamp(min=1)
    least = squared(weight) - float(fitted.max())
    assert squared(weight - dense) == pytest.approx(least, abs=1e-5)


@settings(deadline=None)
@given(matrices, st.sampled_from([0, 3, 8, 64]))
def test_ternary_bytes(matrix, size):
    rows, columns, seed = matrix
    packed = build("ternary", group_size=size).compress(normal(rows, columns, seed=seed))
    expected = -(-rows * columns // 5) + 2 * rows * groups_of(columns, size)
    assert packed.stored_bytes() == expected


# nf4, fp4


def test_nf4_has_the_published_values():
    published = [
        -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
        0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
    ]  # fmt: skip
    assert type(build("nf4")).table().tolist() == pytest.approx(published, abs=1e-6)


def test_fp4_has_the_values_of_its_format():
    positive = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    expected = [-v / 6 for v in positive[:0:-1]] + [v / 6 for v in positive]
    assert type(build("fp4")).table().tolist() == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(matrices, st.sampled_from(["nf4", "fp4"]), st.sampled_from([0, 8, 64]), st.booleans())
def test_codebooks_take_the_nearest_value_of_the_stored_scale(matrix, name, size, double):
    rows, columns, seed = matrix
    weight = normal(rows, columns, seed=seed)
    method = build(name, group_size=size, double=double)
    packed = method.compress(weight)
    groups = groups_of(columns, size)
    scale = method._scales(packed.state(), (rows, columns))
    wide = scale.repeat_interleave(min(size or columns, columns), 1)[:, :columns]
    assert (wide >= weight.abs() * (1 - 1e-6)).all()
    errors = (weight[..., None] - wide[..., None] * method.table()).abs().amin(-1)
    torch.testing.assert_close((weight - packed.dense()).abs(), errors, atol=1e-6, rtol=1e-5)
    scales = rows * groups + 2 * -(-rows * groups // 256) if double else 2 * rows * groups
    assert packed.stored_bytes() == packed_bytes(rows * columns, 4) + scales


# int1 in passes


@pytest.mark.parametrize("scale", ["row", "group"])
def test_each_pass_of_int1_quantises_what_those_before_left(scale):
    weight = normal(6, 50)
    left, one = weight, build("int1", scale=scale)
    for passes in (1, 2, 3, 4):
        packed = build("int1", scale=scale, passes=passes).compress(weight)
        left = left - one.compress(left).dense()
        torch.testing.assert_close(weight - packed.dense(), left, atol=1e-6, rtol=0)
        assert packed.stored_bytes() == passes * one.compress(weight).stored_bytes()
        assert packed.nominal_bits() == passes * weight.numel()


def test_passes_need_scales():
    with pytest.raises(InvalidSetting, match="has no effect"):
        build("int1", scale="none", passes=2)


# hqq


@settings(deadline=None, max_examples=40)
@given(matrices, st.integers(2, 5), st.sampled_from([0, 8, 64]), st.sampled_from(["zero", "both"]))
def test_hqq_is_never_worse_than_its_first_grid(matrix, bits, size, fit):
    rows, columns, seed = matrix
    weight = normal(rows, columns, seed=seed)
    args = {"bits": bits, "group_size": size, "fit": fit}
    first = build("hqq", **args, iterations=0).compress(weight)
    packed = build("hqq", **args).compress(weight)
    assert squared(weight - packed.dense()) <= squared(weight - first.dense()) * (1 + 1e-5) + 1e-9
    expected = packed_bytes(rows * columns, bits) + 4 * rows * groups_of(columns, size)
    assert packed.stored_bytes() == expected


def test_hqq_gains_where_tails_are_heavy():
    weight = torch.distributions.Laplace(0, 1).icdf(torch.linspace(0.001, 0.999, 4096))
    weight = weight[torch.randperm(4096, generator=torch.Generator().manual_seed(0))].view(16, 256)
    for bits, share in ((2, 0.6), (3, 0.7), (4, 0.9)):
        ours, plain = (
            squared(weight - build(name, bits=bits, group_size=0, **args).compress(weight).dense())
            for name, args in (("hqq", {}), ("rtn", {"mode": "asymmetric"}))
        )
        assert ours < share * plain


def test_hqq_shrinks_small_errors_to_none_and_large_ones_hardly():
    error = torch.tensor([0.01, -0.1, 0.4, -5.0, 5.0])
    shrunk = build("hqq")._shrunk(error, torch.tensor(1.0), 10.0)
    assert shrunk[:2].tolist() == [0, 0]
    kept = (error.abs() - error.abs().pow(-0.3) / 10) * error.sign()
    torch.testing.assert_close(shrunk[2:], kept[2:])
    assert shrunk[3:].tolist() == pytest.approx([-5, 5], rel=0.02)


def test_hqq_fits_each_group_by_itself_however_many_there_are():
    weight, method = normal(700, 64), build("hqq")  # more than are fitted at once
    alone = [method.compress(weight[at : at + 100].clone()).dense() for at in range(0, 700, 100)]
    torch.testing.assert_close(method.compress(weight).dense(), torch.cat(alone))


def test_hqq_rounds_to_the_nearest_code_and_ties_to_even_ones():
    values = torch.tensor([-3.0, 0.49, 0.5, 0.51, 1.5, 2.5, 14.5, 15.4, 99.0])
    codes = build("hqq")._codes(values, torch.tensor(1.0), torch.tensor(0.0))
    assert torch.equal(codes, values.round().clamp(0, 15))


def test_hqq_of_equal_weights_is_exact():
    weight = torch.full((3, 10), 0.5)
    assert torch.equal(build("hqq").compress(weight).dense(), weight)
