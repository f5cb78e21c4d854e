"""How a layer computes with a weight that stays packed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compression.kernels.convolving import convolve
from compression.methods.base import CompressedWeight, Method
from compression.methods.rows import ROW_STEP, cut_at
from compression.registry import Plugin, Registry

TILE = 1 << 18
"""Weights that are decoded at once, where a form can be decoded by rows: 1 MB as floats."""
DECODING = 40
"""Bytes for each weight while it is decoded, at most: codes pass through integers of 8 bytes."""


class ReadyWeight(CompressedWeight):
    """A packed weight as a layer computes with it: by default block by block of decoded rows.

    All arithmetic is float32. A kernel that lays the tensors out anew gives those of the file back
    in :meth:`state`, exactly.
    """

    kernel: str
    """Name of the kernel that made it."""

    def __init__(self, weight: CompressedWeight, kernel: str) -> None:
        super().__init__(weight.method, weight.shape, weight.state())
        self.kernel = kernel

    @property
    def resident_bytes(self) -> int:
        """Bytes that it keeps between two calls."""
        return sum(tensor.nbytes for tensor in self.buffers())

    @property
    def scratch_bytes(self) -> int:
        """Bytes that a call holds for a while, at most, beside its inputs and outputs."""
        first = opened_by(self.method)
        weights, width = math.prod(self.shape), math.prod(self.shape[1:])
        if first is not self.method:
            return 2 * DECODING * weights  # slots of a chain are decoded whole
        return DECODING * (min(weights, self._rows_at_once() * width) if self._by_rows else weights)

    @property
    def _by_rows(self) -> bool:
        kind = type(opened_by(self.method))
        return kind.rows is not Method.rows or bool(opened_by(self.method).row_step)

    def _rows_at_once(self) -> int:
        """A multiple of the form's step."""
        if not self._by_rows:
            return self.shape[0]
        step = opened_by(self.method).row_step or ROW_STEP
        return max(TILE // math.prod(self.shape[1:]) // step, 1) * step

    def blocks(self) -> Iterator[Tensor]:
        """The weight as float32, some rows (k, ...) after the other."""
        method, tensors = self.method.opened(self.state(), self.shape)
        step = self._rows_at_once()
        for start in range(0, self.shape[0], step):
            yield method.rows(tensors, self.shape, start, min(start + step, self.shape[0]))

    def linear(self, x: Tensor) -> Tensor:
        """``x W^T`` (..., m) for x (..., n), float32."""
        return torch.cat([x @ block.flatten(1).T for block in self.blocks()], -1)

    def convolution(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """What the convolution makes of x (..., c, h, w), float32, without its bias."""
        return convolve(layer, x, self.blocks())

    def lookup(self, index: Tensor) -> Tensor:
        """The rows (..., n) of ``index`` (...), float32."""
        if not index.numel():
            return torch.zeros(*index.shape, *self.shape[1:], device=index.device)
        if int(index.min()) < 0 or int(index.max()) >= self.shape[0]:
            raise IndexError(f"index out of range in an embedding of {self.shape[0]} rows")
        wanted, where = torch.unique(index, return_inverse=True)
        return self._picked(wanted)[where]

    def _picked(self, wanted: Tensor) -> Tensor:
        """The rows ``wanted`` (k,), in ascending order."""
        method, tensors = self.method.opened(self.state(), self.shape)
        if type(method).rows is Method.rows:
            own = cut_at(method, tensors, self.shape, wanted)
            if own is not None:
                return method.decode(own, (len(wanted), *self.shape[1:]))
        step, found = method.row_step or ROW_STEP, []
        for block in (wanted // step).unique().tolist():  # type: ignore[no-untyped-call]
            start, stop = block * step, min((block + 1) * step, self.shape[0])
            own_rows = wanted[(wanted >= start) & (wanted < stop)] - start
            found.append(method.rows(tensors, self.shape, start, stop)[own_rows])
        return torch.cat(found)

    def extra_repr(self) -> str:
        """As of any packed weight, and the kernel."""
        return f"{super().extra_repr()}, kernel {self.kernel}"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """The tensors of the file, whatever is kept."""
        destination.update({f"{prefix}{slot}": tensor for slot, tensor in self.state().items()})


def opened_by(method: Method) -> Method:
    """The method that decodes in the end: the first one of a chain."""
    first = getattr(method, "first", None)
    return opened_by(first) if isinstance(first, Method) else method


class Kernel(Plugin, ABC):
    """One way to compute with packed weights."""

    last: ClassVar[bool] = False
    """Whether it takes everything, and so has only what no other kernel takes."""

    @abstractmethod
    def refusal(self, weight: CompressedWeight, layer: nn.Module) -> str | None:
        """Why it does not take the weight of this layer, on the device where it is; or None."""

    @abstractmethod
    def prepare(self, weight: CompressedWeight) -> ReadyWeight:
        """The weight as it computes with it. May lay tensors out anew, and drop the given ones."""


KERNELS: Registry[Kernel] = Registry("kernel", Kernel)


def prepared(weight: CompressedWeight, layer: nn.Module) -> ReadyWeight:
    """The weight under the first kernel that takes it: in the order; `last` ones last.

    Raises:
        LookupError: none does, which the last one rules out.
    """
    for name in sorted(KERNELS, key=lambda name: KERNELS[name].last):
        kernel = KERNELS.build(name)
        if kernel.refusal(weight, layer) is None:
            return kernel.prepare(weight)
    raise LookupError(f"no kernel takes {weight.method.name}")
