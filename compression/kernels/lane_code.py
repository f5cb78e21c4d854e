"""Machine code over lanes, by numba. Import late: numba is optional and slow to import.

A panel is :data:`~compression.kernels.lane_layout.LANES` rows side by side: word w of a panel holds
``32 / bits`` neighbouring codes of each of them. Each lane adds up its own row, so no sum is taken
in another order than it is written down, and the compiler puts 4 to 16 lanes in one instruction.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numba.extending
import numpy as np

from compression.kernels.lane_layout import LANES

_jit = numba.njit(fastmath={"contract"}, error_model="numpy", nogil=True)
_SIGN, _BODY = np.uint32(0x8000), np.uint32(0x7FFF)
_RANGE = np.float32(2.0**112)  # between the exponents of float16 and float32


def _wide(bits: Any) -> Any:
    """A float16 or float32, given by its bits, as a float32: exact, subnormal numbers too."""
    raise NotImplementedError("compiled code only")


@numba.extending.overload(_wide)
def _wide_of(bits: Any) -> Any:
    """By the type: what to compile."""
    return _single if bits == numba.types.uint32 else _half


def _single(bits: Any) -> Any:
    return np.uint32(bits).view(np.float32)


def _half(bits: Any) -> Any:
    wide = np.uint32(bits)
    value = np.uint32((wide & _BODY) << np.uint32(13)).view(np.float32) * _RANGE
    return -value if wide & _SIGN else value


@_jit
def group_sums(x: Any, groups: int, size: int) -> Any:
    """Of each row of x (k, n), the sums (k, groups) over ``size`` neighbours."""
    found = np.zeros((len(x), groups), np.float32)
    for row in range(len(x)):
        for group in range(groups):
            stop = min((group + 1) * size, x.shape[1])
            found[row, group] = x[row, group * size : stop].sum()
    return found


@cache
def dot(bits: int) -> Any:
    """``y += factor s (sum_j q_j x_j - z sum_j x_j) + o sum_j x_j`` by groups, for every lane.

    ``words`` (panels, words, lanes); ``scale`` and ``zero`` (panels, groups, lanes), or with a 1
    in the place of panels and groups; ``offset`` as well, or empty; ``middle`` is added to z;
    ``count`` words a group; ``x`` (k, n), its ``sums`` (k, groups), ``y`` (k, panels, lanes).
    """
    signs, add = bits == 1, _signed if bits == 1 else _scaled(bits)
    half = np.float32(0.5)

    def run(
        words: Any,
        scale: Any,
        zero: Any,
        offset: Any,
        middle: float,
        factor: float,
        count: int,
        x: Any,
        sums: Any,
        y: Any,
    ) -> None:
        some, times, least = np.empty(LANES, np.float32), np.float32(factor), np.float32(middle)
        by_scale, by_zero = len(scale) > 1, len(zero) > 1
        for row in range(len(x)):
            for panel in range(len(words)):
                for group in range(sums.shape[1]):
                    some[:] = 0
                    stop = min((group + 1) * count, words.shape[1])
                    add(words[panel], x[row], group * count, stop, some)
                    total = sums[row, group]
                    s = scale[panel * by_scale, group % scale.shape[1]]
                    z = zero[panel * by_zero, group % zero.shape[1]]
                    for lane in range(LANES):
                        codes = half * (some[lane] + total) if signs else some[lane]
                        inside = codes - (least + np.float32(z[lane])) * total
                        y[row, panel, lane] += times * _wide(s[lane]) * inside
                    if len(offset):
                        o = offset[panel, group]
                        for lane in range(LANES):
                            y[row, panel, lane] += _wide(o[lane]) * total

    return _jit(run)


def _scaled(bits: int) -> Any:
    per, mask = 32 // bits, np.uint32(2**bits - 1)

    def add(words: Any, x: Any, start: int, stop: int, some: Any) -> None:
        """Codes times x, for the words from start to stop."""
        for word in range(start, stop):
            row, own = words[word], x[word * per : word * per + per]
            for lane in range(LANES):
                code, found = row[lane], np.float32(0)
                for at in range(per):
                    digit = np.int32((code >> np.uint32(at * bits)) & mask)
                    found += np.float32(digit) * own[at]
                some[lane] += found

    return _jit(add)


def _signs(words: Any, x: Any, start: int, stop: int, some: Any) -> None:
    """``sum (2 q - 1) x`` of one bit: the sign of x is turned where it is 0."""
    every = x.view(np.uint32)
    for word in range(start, stop):
        row, own = words[word], every[word * 32 : word * 32 + 32]
        for lane in range(LANES):
            turn, found = np.uint32(~row[lane]), np.float32(0)
            for at in range(32):
                sign = np.uint32(turn << np.uint32(31 - at)) & np.uint32(1 << 31)
                found += np.uint32(own[at] ^ sign).view(np.float32)
            some[lane] += found


_signed = _jit(_signs)


@cache
def decode(bits: int) -> Any:
    """``w += factor s (q - z) + o`` into (panels, n, lanes); the arguments are those of dot."""
    per, mask = 32 // bits, np.uint32(2**bits - 1)

    def run(
        words: Any,
        scale: Any,
        zero: Any,
        offset: Any,
        middle: float,
        factor: float,
        count: int,
        first: int,
        out: Any,
    ) -> None:
        times, least = np.float32(factor), np.float32(middle)
        by_scale, by_zero = len(scale) > 1, len(zero) > 1
        for panel in range(len(out)):
            at = first + panel
            for column in range(out.shape[1]):
                group, shift = column // (count * per), np.uint32(column % per * bits)
                row = words[at, column // per]
                s = scale[at * by_scale, group % scale.shape[1]]
                z = zero[at * by_zero, group % zero.shape[1]]
                for lane in range(LANES):
                    digit = np.float32(np.int32((row[lane] >> shift) & mask))
                    step = times * _wide(s[lane])
                    value = step * (digit - (least + np.float32(z[lane])))
                    out[panel, column, lane] += value
                if len(offset):
                    o = offset[at, group]
                    for lane in range(LANES):
                        out[panel, column, lane] += _wide(o[lane])

    return _jit(run)
