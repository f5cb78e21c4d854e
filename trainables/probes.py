"""What two runs of one model are held against: logits of a fixed batch, hashes of tensors."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from compression.model import adapter_tensors
from trainables.splits import Split
from trainables.tasks.base import Forward

PROBE = 16
"""Examples of the fixed validation batch whose logits a verification compares."""


@torch.inference_mode()
def probe(forward: Forward, validation: Split) -> Tensor:
    """Logits of the first validation examples, (PROBE, ...) float32, in one batch."""
    first = torch.arange(min(PROBE, len(validation)))
    return forward(validation.inputs(first)).float().contiguous()


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()


def base_hash(model: nn.Module) -> str:
    """SHA-256 of all that a training does not change."""
    live = {tensor.data_ptr() for tensor in adapter_tensors(model) if tensor.numel()}
    found = hashlib.sha256()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.data_ptr() not in live:
            found.update(f"{name} {tensor_hash(tensor.detach().contiguous().view(-1))}".encode())
    return found.hexdigest()
