"""A weight in its packed form: what is computed with is what is saved and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from compression.methods.base import Method


class CompressedWeight(nn.Module):
    """The packed tensors of one weight, and the method that reads them.

    The tensors are buffers, so ``state_dict`` is the packed state. Their dtypes are part of the
    format: ``half()`` and the like move them but do not convert them.

    Args:
        method: resolved, so that its layout is known.
        shape: of the dense weight, (out, in) or (out, in/groups, kh, kw).
        tensors: by slot name, exactly those of ``method.layout(shape)``.

    Raises:
        ValueError: a tensor is missing, unexpected, or of the wrong dtype or shape.
    """

    def __init__(
        self, method: Method, shape: tuple[int, ...], tensors: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.method, self.shape = method, tuple(shape)
        layout = method.layout(self.shape)
        if problem := _mismatch(layout, tensors):
            raise ValueError(f"{method.name}: {problem}")
        for slot in layout:
            self.register_buffer(slot, tensors[slot])

    def state(self) -> dict[str, Tensor]:
        """The packed tensors by slot name: what is saved and what is counted."""
        return dict(self._buffers)  # type: ignore[arg-type]

    def dense(self) -> Tensor:
        """The decoded weight, float32, in :attr:`shape`."""
        return self.method.decode(self.state(), self.shape)

    def linear(self, x: Tensor) -> Tensor:
        """``x @ W.T`` for x (..., n) and W viewed as a matrix (m, n), from the packed tensors."""
        return self.method.linear(x, self.state(), self.shape)

    def macs(self) -> int:
        """Multiply-accumulates for each output position."""
        return self.method.macs(self.shape)

    def nominal_bits(self) -> int:
        """Bits of the values alone, as published tables count."""
        return self.method.nominal_bits(self.shape)

    def stored_bytes(self) -> int:
        """Bytes of all packed tensors."""
        return sum(tensor.nbytes for tensor in self.state().values())

    def extra_repr(self) -> str:
        """Method and shape."""
        return f"{self.method}, {'x'.join(map(str, self.shape))}, {self.stored_bytes()} bytes"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompressedWeight:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]
        return self


def _mismatch(layout: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str | None:
    for slot in [*layout, *tensors]:
        if slot not in tensors:
            return f"tensor '{slot}' is missing"
        if slot not in layout:
            return f"tensor '{slot}' is not one of {', '.join(layout)}"
        expected, got = layout[slot], tensors[slot]
        if (got.dtype, tuple(got.shape)) != (expected.dtype, expected.shape):  # type: ignore[attr-defined]
            return f"tensor '{slot}' is {got.dtype} {tuple(got.shape)}, expected {expected}"
    return None
