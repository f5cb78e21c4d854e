"""The weights of a model as one value."""

from __future__ import annotations

import hashlib

from torch import nn

from compression.artifact import serialize


def state_hash(model: nn.Module) -> str:
    """Hash of all weights and buffers, those that layers share once."""
    return hashlib.sha256(serialize(model)).hexdigest()[:16]
