"""Objects whose tensors all processes of a machine read from the same memory.

A pickle of tensors is copied by each process that reads it. Here the tensors' bytes stand beside
the pickle, as arrays that Ray's object store maps into every worker: a model's weights stand in
memory once, however many trials run.
"""

from __future__ import annotations

import io
import pickle
import warnings
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Packed:
    """A pickle and the bytes of its tensors."""

    pickled: bytes
    arrays: list[np.ndarray]

    def unpack(self) -> Any:
        """The object. Its tensors are the arrays' memory: they must not be written to."""
        return pickle.loads(self.pickled, buffers=self.arrays)


def pack(thing: Any) -> Packed:
    """Take an object apart. Other processes see only what its CPU tensors hold, not their views."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(thing)
    return Packed(file.getvalue(), [np.frombuffer(b.raw(), np.uint8) for b in buffers])


class _Pickler(cloudpickle.Pickler):
    """Tensors leave as arrays, whose bytes are not copied."""

    def reducer_override(self, obj: Any) -> Any:
        plain = type(obj) in (Tensor, nn.Parameter) and obj.layout == torch.strided
        if not plain or obj.device.type != "cpu":
            return super().reducer_override(obj)
        values = obj.detach().contiguous()
        array = values.flatten().view(torch.uint8).numpy()
        kind = (obj.dtype, tuple(obj.shape), type(obj) is nn.Parameter, obj.requires_grad)
        return _tensor, (array, *kind)


def _tensor(
    array: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...], parameter: bool, grad: bool
) -> Tensor:
    with warnings.catch_warnings():  # torch can't mark a tensor as read-only, and says so
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        values = torch.from_numpy(array).view(dtype).view(shape)
    if parameter:
        return nn.Parameter(values, requires_grad=grad)
    return values.requires_grad_(grad)
