"""Tensors that all processes of a machine read from the same memory.

A tensor that is sent as Ray sends one is copied by each process that gets it. Arrays are not: the
object store maps them into every worker. So tensors go as arrays, and a model's weights stand in
memory once, however many trials run.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Parts(NamedTuple):
    """A tensor's bytes, and what they are."""

    array: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]
    parameter: bool
    requires_grad: bool


def take_apart(tensor: Tensor) -> Parts:
    """A tensor as an array that shares its memory if that is on the CPU and in one piece."""
    values = tensor.detach().cpu().contiguous()
    array = values.flatten().view(torch.uint8).numpy()
    parameter = isinstance(tensor, nn.Parameter)
    return Parts(array, tensor.dtype, tuple(tensor.shape), parameter, tensor.requires_grad)


def put_together(parts: Parts) -> Tensor:
    """The tensor, on the CPU. Its memory is the array's: it must not be written to."""
    with warnings.catch_warnings():  # torch can't mark a tensor as read-only, and says so
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        values = torch.from_numpy(parts.array).view(parts.dtype).view(parts.shape)
    if parts.parameter:
        return nn.Parameter(values, requires_grad=parts.requires_grad)
    return values.requires_grad_(parts.requires_grad)
