"""Which cells of a matrix hold values, in few bits: a bitmap, sorted indices, or n of every m.

Indices are coded as Elias and Fano do: of each sorted index the ``l`` low bits as they are; the
high parts, which only grow, as a string of bits with a one for each index and a zero for each step
up. The length follows from the number of indices alone, and is near ``k (2 + log2(N / k))`` bits
for k of N cells: less than a bitmap's N bits below a quarter of the cells.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

from compression.packing import (
    MAX_BITS,
    nth_zero,
    pack,
    packed_bytes,
    unpack,
    unpack_part,
)


def bitmap_bytes(cells: int) -> int:
    """``ceil(N / 8)``."""
    return packed_bytes(cells, 1)


def indices_bytes(cells: int, count: int) -> int:
    """``ceil(k l / 8) + ceil((k + floor((N - 1) / 2^l)) / 8)``, l from 1 to 16 that is best."""
    return sum(_index_parts(cells, count)[1:])


def _index_parts(cells: int, count: int) -> tuple[int, int, int]:
    """Low bits, bytes of all low bits, bytes of the high parts."""

    def parts(low: int) -> tuple[int, int, int]:
        return low, packed_bytes(count, low), packed_bytes(_high_bits(cells, count, low), 1)

    return min(map(parts, range(1, MAX_BITS + 1)), key=lambda p: (p[1] + p[2], p[0]))


def _high_bits(cells: int, count: int, low: int) -> int:
    return count + ((cells - 1) >> low)


def pack_indices(mask: Tensor) -> Tensor:
    """The true cells of a mask (N,) as sorted indices, :func:`indices_bytes` of them."""
    where = mask.nonzero().flatten()
    low = _index_parts(len(mask), len(where))[0]
    ones = mask.new_zeros(_high_bits(len(mask), len(where), low))
    ones[(where >> low) + torch.arange(len(where), device=mask.device)] = True
    return torch.cat([pack(where & ((1 << low) - 1), low), pack(ones, 1)])


def unpack_indices(packed: Tensor, cells: int, count: int) -> Tensor:
    """The inverse of :func:`pack_indices`: a mask (N,)."""
    low, low_bytes, _ = _index_parts(cells, count)
    ones = unpack(packed[low_bytes:], 1, _high_bits(cells, count, low))
    high = ones.nonzero().flatten() - torch.arange(count, device=packed.device)
    where = high << low | unpack(packed[:low_bytes], low, count)
    mask = torch.zeros(cells, dtype=torch.bool, device=packed.device)
    mask[where] = True
    return mask


def unpack_some_indices(
    packed: Tensor, cells: int, count: int, start: int, stop: int
) -> tuple[int, Tensor]:
    """Cells ``start`` to ``stop`` of :func:`unpack_indices`, and how many are true before them.

    The high parts of indices from the cell ``h 2^l`` on follow the h-th zero.
    """
    low, low_bytes, _ = _index_parts(cells, count)
    bits, length = packed[low_bytes:], _high_bits(cells, count, low)
    high, last = start >> low, (stop - 1) >> low
    begin, end = nth_zero(bits, high, length), nth_zero(bits, last + 1, length)
    ones = unpack_part(bits, 1, begin, end).nonzero().flatten()
    first = begin - high
    order = torch.arange(len(ones), device=packed.device)
    lows = unpack_part_wide(packed[:low_bytes], low, count, first, first + len(ones))
    where = (ones - order + high) << low | lows
    mask = torch.zeros(stop - start, dtype=torch.bool, device=packed.device)
    mask[where[(where >= start) & (where < stop)] - start] = True
    return first + int((where < start).sum()), mask


def unpack_part_wide(packed: Tensor, bits: int, count: int, start: int, stop: int) -> Tensor:
    """:func:`unpack_part` of ``count`` codes of up to 16 bits, whose high bits come after."""
    if bits <= 8:
        return unpack_part(packed, bits, start, stop)
    high = unpack_part(packed[count:], bits - 8, start, stop)
    return packed[start:stop].to(torch.int64) | high << 8


def tile_bits(n: int, m: int) -> int:
    """``ceil(log2 C(m, n))``: which n of m."""
    return (math.comb(m, n) - 1).bit_length()


@lru_cache
def _choices(n: int, m: int) -> Tensor:
    """Every choice of n of m as a mask, (C(m, n), m)."""
    chosen = torch.tensor(list(itertools.combinations(range(m), n)))
    return torch.zeros(len(chosen), m, dtype=torch.bool).scatter_(1, chosen, True)


def pack_tiles(mask: Tensor, n: int) -> Tensor:
    """A mask (T, m) with n true in every row as numbers of choices, m at most 16."""
    m = mask.shape[1]
    choices = _choices(n, m).to(mask.device)
    powers = 1 << torch.arange(m, device=mask.device)
    number = powers.new_zeros(1 << m)
    number[(choices * powers).sum(1)] = torch.arange(len(choices), device=mask.device)
    return pack(number[(mask * powers).sum(1)], tile_bits(n, m))


def unpack_tiles(packed: Tensor, n: int, m: int, tiles: int) -> Tensor:
    """The inverse of :func:`pack_tiles`: a mask (T, m)."""
    return _choices(n, m).to(packed.device)[unpack(packed, tile_bits(n, m), tiles)]
