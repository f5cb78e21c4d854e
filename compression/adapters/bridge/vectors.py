"""Adapters that train some vectors for each layer: PEFT's IA3, BEFT and RoAd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compression.adapters.base import ADAPTERS
from compression.adapters.bridge.bridged import Bridged
from compression.adapters.bridge.peft_layers import divisors
from compression.methods.base import Shape
from compression.registry import IntRange, Values, knob


@ADAPTERS.register("ia3")
class Ia3(Bridged):
    """IA3: ``y = l * (W x + b)`` with l (out,) trained, 1 at the start.

    Stored bytes: ``b m``.

    Source: Liu et al., T-Few, arXiv 2205.05638.
    """

    peft_type = "IA3"
    of_base = True
    kinds = frozenset({"linear", "conv2d"})
    ranked = scaled = False
    # PEFT's comparison takes 1e-3 and 5e-3 where its LoRA takes 1e-4.
    lr_factor = 10.0

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"feedforward_modules": []}

    def macs(self, shape: Shape, rank: int) -> int:
        """``m``."""
        return shape[0]


@ADAPTERS.register("beft")
class Beft(Bridged):
    """BEFT: ``y = W x + b + d`` with d (out,) trained, 0 at the start.

    The paper trains the bias of the value projection alone: choose the layers by a rule. Stored
    bytes, at s a value: ``s m``.

    Source: Huang et al., BEFT, arXiv 2509.15974.
    """

    peft_type = "BEFT"
    of_base = True  # without one, no output would depend on the inputs
    ranked = scaled = False
    # As for IA3: a vector for each layer.
    lr_factor = 10.0

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {}

    def macs(self, shape: Shape, rank: int) -> int:
        """None: there is nothing to multiply."""
        return 0


@ADAPTERS.register("road")
class Road(Bridged):
    """RoAd: ``y = R (W x + b)``, R turning pairs of outputs, each scaled; both trained.

    A pair (u, v) becomes ``(s cos t u - s sin t v, s sin t u + s cos t v)``, t 0 and s 1 at the
    start. Pairs lie ``group_size / 2`` apart. Variant 1 has t and s for each pair, 2 for each
    output, 4 for each entry of R. Stored bytes, at b a value: ``b m`` times the variant.

    Source: Liao and Monz, 3-in-1: 2D Rotary Adaptation (RoAd), arXiv 2409.00119.
    """

    peft_type = "ROAD"
    of_base = True
    ranked = scaled = False
    # PEFT's comparison takes 1e-3 where its LoRA takes 1e-4.
    lr_factor = 10.0
    variant: int = knob(
        1, Values((1, 2, 4)), search=Values((1, 2, 4)), help="values over those for each output"
    )
    group_size: int = knob(
        2, IntRange(2, 2**16), help="even; pairs lie half of it apart, it has no other effect"
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"variant": f"road_{self.variant}", "group_size": self.group_size}

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        if shape[0] % self.group_size or self.group_size % 2:
            yield (
                f"group_size {self.group_size} must be even and divide its {shape[0]} outputs; "
                f"these divide them: {divisors(shape[0])}"
            )

    def macs(self, shape: Shape, rank: int) -> int:
        """``2 m``."""
        return 2 * shape[0]
