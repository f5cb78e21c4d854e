"""Storing floats in fewer bits without surprises: overflow is refused, scales never shrink."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.registry import InvalidSetting

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def narrow(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` in ``dtype``.

    Raises:
        InvalidSetting: a finite value would become infinite.
    """
    stored = values.to(dtype)
    if values.numel() and not torch.isfinite(stored).all():
        largest = float(values.abs().max())
        name = str(dtype).removeprefix("torch.")
        raise InvalidSetting([f"{name} cannot hold {largest:g}; store it in float32"])
    return stored


def narrow_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Non-negative ``values`` rounded up to ``dtype``, so that a positive scale stays positive.

    A quantiser's grid then always covers its weights, whatever the scale's dtype.

    Raises:
        InvalidSetting: as :func:`narrow`.
    """
    stored = narrow(values, dtype)
    if dtype != torch.float16:
        return stored
    # The bits of non-negative floats are in the order of their values: +1 is the next one up.
    above = (stored.view(torch.int16) + 1).view(torch.float16)
    return narrow(torch.where(stored.float() < values, above, stored).float(), dtype)
