"""Codes of rows side by side, for instructions that work on many rows at once, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor

from compression.methods import ActivationAware, HalfQuadratic, Int1, Method, Sign
from compression.methods.base import Shape
from compression.methods.quantize.grouping import group_counts
from compression.methods.quantize.uniform import UniformGrid
from compression.packing import pack, unpack

LANES = 64
"""Rows of a panel."""
WORD = 32


@dataclass(frozen=True)
class Lattice:
    """``W = factor s (q - z) / d`` or ``s q + o``, and the slots of the method that hold this.

    Codes of ``bits`` bits in ``codes``; s, o and packed z by groups of ``size`` entries of a row,
    ``middle`` a z that all share; d by column. ``passes`` such terms, one after the other, add up.
    """

    bits: int
    codes: str
    size: int
    middle: float = 0.0
    factor: float = 1.0
    scale: str = ""
    zero: str = ""
    offset: str = ""
    divisor: str = ""
    passes: int = 1

    @property
    def planes(self) -> list[tuple[int, int]]:
        """(bits, shift) of the parts that fill words without a rest: 3 bits are 2 and 1."""
        found, shift = [], 0
        for bits in (8, 4, 2, 1):
            if self.bits & bits:
                found.append((bits, shift))
                shift += bits
        return found


@singledispatch
def lattice_of(method: Method, shape: Shape) -> Lattice | None:
    """How a method's weight of this shape is a lattice; None where it is none."""
    return None


@lattice_of.register
def _uniform(method: UniformGrid, shape: Shape) -> Lattice:
    size = group_counts(shape, method.group_size)[2]
    if method.mode == "asymmetric":
        return Lattice(method.bits, "codes", size, scale="scale", zero="zero")
    return Lattice(method.bits, "codes", size, 2.0 ** (method.bits - 1), scale="scale")


@lattice_of.register
def _(method: ActivationAware, shape: Shape) -> Lattice:
    return replace(_uniform(method, shape), divisor="channels" if method.alpha else "")


@lattice_of.register
def _(method: HalfQuadratic, shape: Shape) -> Lattice:
    size = group_counts(shape, method.group_size)[2]
    return Lattice(method.bits, "codes", size, scale="scale", offset="offset")


@lattice_of.register
def _(method: Int1, shape: Shape) -> Lattice:
    size = group_counts(shape, method.group_size if method.scale == "group" else 0)[2]
    scale = "" if method.scale == "none" else "scale"
    return Lattice(1, "signs", size, 0.5, 2.0, scale, passes=method.passes)


@lattice_of.register
def _(method: Sign, shape: Shape) -> Lattice | None:
    size = group_counts(shape, 0)[2]
    return None if method.zeros else Lattice(1, "signs", size, 0.5, 2.0)


def words_of(codes: Tensor, bits: int) -> Tensor:
    """Codes (m, n) below ``2**bits``, bits a divisor of 32, as int32 (panels, words, lanes)."""
    per = WORD // bits
    rows, columns = codes.shape
    padded = torch.nn.functional.pad(codes.to(torch.uint8), (0, -columns % per, 0, -rows % LANES))
    bits_of = pack(padded.flatten(), bits).view(torch.int32)
    return bits_of.view(-1, LANES, padded.shape[1] // per).transpose(1, 2).contiguous()


def codes_of(words: Tensor, bits: int, rows: int, columns: int) -> Tensor:
    """The inverse of :func:`words_of`: int64 (m, n)."""
    flat = words.transpose(1, 2).contiguous().view(torch.uint8).flatten()
    codes = unpack(flat, bits, len(flat) * 8 // bits)
    return codes.view(len(words) * LANES, -1)[:rows, :columns]


def to_lanes(values: Tensor) -> Tensor:
    """(m, g) as (panels, g, lanes), rows filled up with zeros."""
    padded = torch.nn.functional.pad(values, (0, 0, 0, -len(values) % LANES))
    return padded.view(-1, LANES, values.shape[1]).transpose(1, 2).contiguous()


def from_lanes(lanes: Tensor, rows: int) -> Tensor:
    """The inverse of :func:`to_lanes`."""
    return lanes.transpose(1, 2).reshape(-1, lanes.shape[1])[:rows].contiguous()
