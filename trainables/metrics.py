"""What a model did on each example, and scores over many of them."""

from __future__ import annotations

from torch import Tensor, nn


def classified(outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """``prediction`` (b,) int64 and ``loss`` (b,), the cross-entropy, of logits (b, classes)."""
    return {
        "prediction": outputs.argmax(-1),
        "loss": nn.functional.cross_entropy(outputs, labels, reduction="none"),
    }
