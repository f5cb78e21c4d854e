"""Adapters that train a vector for each layer: PEFT's IA3."""

from __future__ import annotations

from typing import Any

from compression.adapters.base import ADAPTERS
from compression.adapters.bridged import Bridged
from compression.methods.base import Shape


@ADAPTERS.register("ia3")
class Ia3(Bridged):
    """IA3: ``y = l * (W x + b)`` with l (out,) trained, 1 at the start.

    Stored bytes: ``b m``.

    Source: Liu et al., T-Few, arXiv 2205.05638.
    """

    peft_type = "IA3"
    kinds = frozenset({"linear", "conv2d"})
    ranked = scaled = False
    lr_factor = 3.0

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"feedforward_modules": []}

    def macs(self, shape: Shape, rank: int) -> int:
        """``m``."""
        return shape[0]
