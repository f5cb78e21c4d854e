"""Rank-stabilised low-rank adaptation."""

from __future__ import annotations

from compression.adapters.base import ADAPTERS
from compression.adapters.bridge.lora import Lora
from compression.registry import Values, knob


@ADAPTERS.register("rslora")
class RsLora(Lora):
    """rsLoRA: LoRA with ``y = W x + (alpha / sqrt(r)) B A x``, so that steps do not shrink with r.

    Else as lora. A layer whose rank is clamped keeps the scale of the rank that was asked for.
    Stored bytes: ``b r (m + n)``.

    Source: Kalajdzievski, rsLoRA, arXiv 2312.03732.
    """

    of_alpha = frozenset()
    scaling: str = knob(
        "alpha_over_root_rank",
        Values(("alpha_over_root_rank",)),
        help="what B A is multiplied by: always this",
    )

    def scale(self, alpha: float | None, rank: int) -> float:
        """See :meth:`Adapter.scale`."""
        return 1.0 if alpha is None else alpha / rank**0.5
