"""How numbers get to the device that computes with them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from trainables.splits import Inputs, map_inputs


def send(inputs: Inputs, device: torch.device) -> Inputs:
    """The inputs on the device; see :func:`send_tensor`."""
    return map_inputs(partial(send_tensor, device=device), inputs)


def send_tensor(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. From pageable memory by way of pinned, without waiting."""
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
