"""The contract of every method, and the mathematics of each."""

import math

import pytest
import torch
from networks import layer_stats, variants

from compression.methods import METHODS
from compression.methods.base import CompressedWeight
from compression.registry import InvalidSetting

SHAPES = [(5, 7), (1, 9), (9, 1), (16, 16), (4, 3, 3, 3), (3, 1, 1, 1)]
WEIGHTS = {
    "normal": lambda shape: torch.randn(shape, generator=torch.Generator().manual_seed(0)),
    "zero": torch.zeros,
    "rank one": lambda shape: torch.ones(shape) * 0.3,
    "tiny": lambda shape: torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-9,
}


def build(name, **args):
    return METHODS.build(name, args)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The contract: a new method meets these with no new line here.


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("method", variants(METHODS), ids=str)
def test_contract(method, kind):
    for shape in SHAPES:  # not one test each: there would be thousands
        _meets_the_contract(method, shape, kind)


def _meets_the_contract(method, shape, kind):
    weight = WEIGHTS[kind](shape)
    before = weight.clone()
    packed = method.compress(weight, layer_stats(shape))
    assert torch.equal(weight, before)

    layout = packed.method.layout(shape)
    state = packed.state()
    assert list(state) == list(layout)
    for name, slot in layout.items():
        assert (state[name].dtype, tuple(state[name].shape)) == (slot.dtype, slot.shape)
        assert state[name].nbytes == slot.nbytes
        assert state[name].is_contiguous()
        assert state[name].untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
    assert packed.stored_bytes() == sum(slot.nbytes for slot in layout.values())

    dense = packed.dense()
    assert dense.shape == weight.shape
    assert dense.dtype == torch.float32
    assert torch.isfinite(dense).all()
    assert torch.equal(dense, packed.dense())

    x = normal(3, weight.flatten(1).shape[1], seed=1)
    torch.testing.assert_close(packed.linear(x), x @ dense.flatten(1).T, rtol=1e-4, atol=1e-5)
    assert packed.nominal_bits() <= 8 * packed.stored_bytes()
    # Unless nothing is kept, and the adapter counts.
    assert (packed.nominal_bits() > 0) is (packed.macs() > 0) is not method.base_is_gone

    # The resolved method is a config of the same kind, which a file can name.
    again = METHODS.build(packed.method.name, packed.method.args())
    assert again == packed.method
    assert torch.equal(CompressedWeight(again, shape, state).dense(), dense)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_weights_are_refused(name, bad):
    weight = torch.ones(3, 3)
    weight[1, 1] = bad
    with pytest.raises(InvalidSetting, match="NaN or infinity"):
        build(name).compress(weight, layer_stats((3, 3)))


@pytest.mark.parametrize("name", METHODS)
def test_no_matrix_is_refused_unless_any_shape_is_taken(name):
    method = build(name)
    if method.any_shape:
        assert list(method.compress(torch.ones(4)).state()) == ["weight"]
    else:
        with pytest.raises(InvalidSetting, match="cannot take"):
            method.compress(torch.ones(4))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_needs_is_asked_for(name):
    method = build(name)
    of_a_layer = method.needs - {"examples"}  # which only a plan looks at
    assert not of_a_layer or "embedding" not in method.kinds
    if of_a_layer:
        with pytest.raises(InvalidSetting, match="needs calibration"):
            method.compress(normal(4, 6))
    else:
        assert torch.equal(
            method.compress(normal(4, 6)).dense(),
            method.compress(normal(4, 6), layer_stats((4, 6))).dense(),
        )


@pytest.mark.parametrize("name", METHODS)
def test_packed_tensors_keep_their_dtype_under_half(name):
    packed = build(name).compress(normal(4, 6), layer_stats((4, 6)))
    before = packed.dense()
    assert torch.equal(packed.half().dense(), before)


def test_wrong_tensors_are_refused_by_name():
    packed = build("rtn").compress(normal(4, 6))
    state = packed.state()
    method = packed.method
    with pytest.raises(ValueError, match="'scale' is missing"):
        CompressedWeight(method, (4, 6), {"codes": state["codes"]})
    with pytest.raises(ValueError, match="'zero' is not one of"):
        CompressedWeight(method, (4, 6), {**state, "zero": state["codes"]})
    with pytest.raises(ValueError, match="'codes' is"):
        CompressedWeight(method, (4, 6), {**state, "codes": state["codes"][:-1]})
