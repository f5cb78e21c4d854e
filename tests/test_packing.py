"""Packing of codes: round trip over every width, exact length, refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression.packing import pack, packed_bytes, unpack


@given(st.data(), st.integers(1, 16), st.integers(0, 70))
def test_unpack_inverts_pack_in_the_least_whole_bytes(data, bits, count):
    codes = torch.tensor(
        data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count)),
        dtype=torch.int64,
    )
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_bytes(count, bits),)
    assert packed_bytes(count, bits) == (count * bits + 7) // 8
    assert torch.equal(unpack(packed, bits, count), codes)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=30))
def test_pack_is_the_little_endian_integer_of_its_codes(codes):
    number = sum(code << (3 * i) for i, code in enumerate(codes))
    expected = number.to_bytes(packed_bytes(len(codes), 3), "little")
    assert bytes(pack(torch.tensor(codes), 3).tolist()) == expected


@pytest.mark.parametrize("code", [-1, 8])
def test_codes_that_do_not_fit_are_refused(code):
    with pytest.raises(ValueError, match="3 bits"):
        pack(torch.tensor([0, code]), 3)


@pytest.mark.parametrize("bits", [0, 17])
def test_widths_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="from 1 to 16"):
        pack(torch.tensor([0]), bits)


def test_wrong_length_is_refused():
    with pytest.raises(ValueError, match="9 codes of 3 bits are 4 bytes"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 9)
