"""Codes on a grid times inputs, many rows at once, without decoding them first."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compression.kernels.base import KERNELS, TILE, Kernel, ReadyWeight
from compression.kernels.lane_layout import (
    LANES,
    WORD,
    Lattice,
    codes_of,
    from_lanes,
    lattice_of,
    to_lanes,
    words_of,
)
from compression.kinds import kind_of
from compression.methods.base import CompressedWeight, matrix_shape
from compression.methods.quantize.grouping import group_counts
from compression.packing import pack, unpack

KEEPS = 1.1
"""What it may keep, over what is stored: rows and groups are filled up to whole words."""
FEW = 16
"""Inputs that are multiplied by the codes themselves; for more, decoding once is faster."""
_ONE = np.full((1, 1, LANES), 1, np.float32).view(np.uint32)
_NO_ZERO = np.zeros((1, 1, LANES), np.uint8)
_NOTHING = np.zeros((0, 1, LANES), np.uint32)
_BITS = {torch.float16: np.uint16, torch.float32: np.uint32}


@KERNELS.register("lanes")
class Lanes(Kernel):
    """Grids of 1 to 8 bits on the CPU: rtn, gptq, yaqa, awq, hqq, int1, and sign without zeros.

    Sums are float32, those of codes first and then times the scale of a group, so outputs are near
    those of the decoded weight to the rounding of float32 sums. Codes are laid out anew,
    :data:`~compression.kernels.lane_layout.LANES` rows side by side; :meth:`LaneWeight.state` is
    exact. Needs numba, the extra ``kernels``; its first call compiles, for some seconds.
    """

    def refusal(self, weight: CompressedWeight, layer: nn.Module) -> str | None:
        """See :meth:`Kernel.refusal`."""
        found = lattice_of(weight.method, weight.shape)
        if found is None:
            return f"{weight.method.name} is no grid of codes"
        if any(tensor.device.type != "cpu" for tensor in weight.state().values()):
            return "only on the CPU"
        if kind_of(layer) == "embedding":
            return "rows are looked up, not multiplied"
        if importlib.util.find_spec("numba") is None:
            return "needs numba: pip install 'paretune[kernels]'"
        return _misfit(found, weight)

    def prepare(self, weight: CompressedWeight) -> ReadyWeight:
        """See :meth:`Kernel.prepare`."""
        return LaneWeight(weight, self.name)


def _misfit(lattice: Lattice, weight: CompressedWeight) -> str | None:
    rows, columns = matrix_shape(weight.shape)
    groups = group_counts(weight.shape, lattice.size)[1]
    most = max(WORD // bits for bits, _ in lattice.planes)
    if groups > 1 and lattice.size % most:
        return f"groups of {lattice.size} entries don't end with a word of {most}"
    padded = -(-rows // LANES) * LANES
    stored = [(rows, weight.stored_bytes()), (padded, 0)]
    wide = -(-columns // most) * most
    codes = lattice.passes * padded * wide * lattice.bits // 8
    slots = [n for n in (lattice.scale, lattice.offset) if n]
    scales = sum(weight.state()[slot].nbytes * padded // rows for slot in slots)
    zeros = padded * groups if lattice.zero else 0
    keeps = codes + scales + zeros
    if keeps > KEEPS * stored[0][1]:
        return f"{rows} rows of {columns} would take {keeps} bytes as panels of {LANES} rows"
    return None


class LaneWeight(ReadyWeight):
    """See :class:`Lanes`."""

    def __init__(self, weight: CompressedWeight, kernel: str) -> None:
        nn.Module.__init__(self)
        self.method, self.shape, self.kernel = weight.method, weight.shape, kernel
        found = lattice_of(weight.method, weight.shape)
        if found is None:
            raise ValueError(f"{weight.method.name} is no grid of codes")
        self.lattice, tensors = found, weight.state()
        self._views: list[tuple[int, tuple[Any, ...]]] | None = None
        rows, columns = matrix_shape(self.shape)
        for index, packed in enumerate(tensors.pop(found.codes).chunk(found.passes)):
            codes = unpack(packed, found.bits, rows * columns).view(rows, columns)
            for bits, shift in found.planes:
                plane = words_of(codes >> shift & (2**bits - 1), bits)
                self.register_buffer(f"words{index}_{shift}", plane)
        for slot, tensor in tensors.items():
            self.register_buffer(f"own_{slot}", self._laid_out(slot, tensor))

    def _laid_out(self, slot: str, tensor: Tensor) -> Tensor:
        """A slot beside the codes: what groups have, by lanes."""
        rows, groups, _ = group_counts(self.shape, self.lattice.size)
        if slot == self.lattice.divisor:
            return tensor
        if slot == self.lattice.zero:
            codes = unpack(tensor, self.lattice.bits, rows * groups).view(rows, groups)
            return to_lanes(codes.to(torch.uint8))
        return torch.stack([to_lanes(part) for part in tensor.chunk(self.lattice.passes)])

    def state(self) -> dict[str, Tensor]:
        """See :meth:`CompressedWeight.state`: as in the file, exactly."""
        found, lattice = dict[str, Tensor](), self.lattice
        for slot in self.method.layout(self.shape):
            if slot == lattice.codes:
                found[slot] = torch.cat([self._codes(index) for index in range(lattice.passes)])
                continue
            own = self._buffer(f"own_{slot}")
            if slot == lattice.zero:
                own = pack(from_lanes(own, self.shape[0]).flatten(), lattice.bits)
            elif slot != lattice.divisor:
                own = torch.cat([from_lanes(part, self.shape[0]) for part in own])
            found[slot] = own
        return found

    def _codes(self, index: int) -> Tensor:
        size = matrix_shape(self.shape)
        parts = [
            codes_of(self._buffer(f"words{index}_{shift}"), bits, *size) << shift
            for bits, shift in self.lattice.planes
        ]
        return pack(sum(parts[1:], parts[0]).flatten(), self.lattice.bits)

    def _buffer(self, name: str) -> Tensor:
        found: Any = self._buffers[name]
        return found  # type: ignore[no-any-return]

    @property
    def scratch_bytes(self) -> int:
        """See :attr:`ReadyWeight.scratch_bytes`: decoded panels, twice, and inputs once more."""
        width = math.prod(self.shape[1:])
        return 12 * self._panels_at_once() * LANES * width

    def _panels_at_once(self) -> int:
        return max(TILE // (LANES * math.prod(self.shape[1:])), 1)

    def _terms(self) -> list[tuple[int, tuple[Any, ...]]]:
        """Of each plane its bits, and the arguments that ``dot`` and ``decode`` share: views."""
        if self._views is None:
            self._views = [
                (bits, self._arguments(index, bits, shift))
                for index in range(self.lattice.passes)
                for bits, shift in self.lattice.planes
            ]
        return self._views

    def _arguments(self, index: int, bits: int, shift: int) -> tuple[Any, ...]:
        lattice, first = self.lattice, shift == 0
        words = self._buffer(f"words{index}_{shift}").numpy().view(np.uint32)
        scale = self._halves(lattice.scale, index) if lattice.scale else _ONE
        zero = self._buffer(f"own_{lattice.zero}").numpy() if lattice.zero and first else _NO_ZERO
        offset = self._halves(lattice.offset, index) if lattice.offset and first else _NOTHING
        middle, factor = lattice.middle if first else 0.0, lattice.factor * 2.0**shift
        whole = group_counts(self.shape, lattice.size)[1] == 1  # then filled up to whole words
        count = words.shape[1] if whole else lattice.size * bits // WORD
        return words, scale, zero, offset, middle, factor, count

    def __getstate__(self) -> dict[str, Any]:
        """For copies: without views, which would be copied apart from what they view."""
        return {**self.__dict__, "_views": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompressedWeight:
        self._views = None
        return super()._apply(fn, recurse)

    def _halves(self, slot: str, index: int) -> Any:
        values = self._buffer(f"own_{slot}")[index]
        return values.numpy().view(_BITS[values.dtype])

    def linear(self, x: Tensor) -> Tensor:
        """See :meth:`ReadyWeight.linear`."""
        if self.lattice.divisor:
            x = x / self._buffer(f"own_{self.lattice.divisor}").float()
        flat = x.reshape(-1, x.shape[-1])
        found = self._few(flat) if len(flat) <= FEW else self._many(flat)
        return found[:, : self.shape[0]].view(*x.shape[:-1], self.shape[0])

    def _few(self, x: Tensor) -> Tensor:
        from compression.kernels.lane_code import dot, group_sums

        rows, groups, size = group_counts(self.shape, self.lattice.size)
        filled = nn.functional.pad(x, (0, -x.shape[1] % WORD)).detach().contiguous().numpy()
        sums, found = (
            group_sums(filled, groups, size),
            x.new_zeros(len(x), -(-rows // LANES), LANES),
        )
        for bits, arguments in self._terms():
            dot(bits)(*arguments, filled, sums, found.numpy())
        return found.flatten(1)

    def _many(self, x: Tensor) -> Tensor:
        parts = [(x @ panels).transpose(0, 1).flatten(1) for panels in self._decoded()]
        return torch.cat(parts, 1)

    def _decoded(self) -> Iterator[Tensor]:
        """Some panels (k, n, lanes) after the other, without the divisor."""
        from compression.kernels.lane_code import decode

        columns, step = math.prod(self.shape[1:]), self._panels_at_once()
        count = -(-self.shape[0] // LANES)
        for first in range(0, count, step):
            panels = torch.zeros(min(step, count - first), columns, LANES)
            for bits, arguments in self._terms():
                decode(bits)(*arguments, first, panels.numpy())
            yield panels

    def blocks(self) -> Iterator[Tensor]:
        """See :meth:`ReadyWeight.blocks`."""
        left = self.shape[0]
        for panels in self._decoded():
            rows = panels.transpose(1, 2).flatten(0, 1)[:left]
            left -= len(rows)
            if self.lattice.divisor:
                rows = rows / self._buffer(f"own_{self.lattice.divisor}").float()
            yield rows.reshape(-1, *self.shape[1:])
