"""The kinds of layers that can be compressed."""

from __future__ import annotations

from typing import Any

from torch import nn

_KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv2d: "conv2d",
    nn.Embedding: "embedding",
}
EVERY_LAYER = frozenset(_KINDS.values())
WITH_INPUTS = EVERY_LAYER - {"embedding"}
"""Those that multiply their inputs by the weight; an embedding looks up a row of it."""


def bare(module: nn.Module) -> Any:
    """The layer itself, out of an adapter's wrapper."""
    return getattr(module, "base_layer", module)


def kind_of(module: nn.Module) -> str | None:
    """``linear``, ``conv2d``, ``embedding`` or None.

    Subclasses are None: some compute without calling ``forward``, as attention's output does. Those
    of ours that stand for a kind are of it.
    """
    return _KINDS.get(getattr(module, "stands_for", type(module)))
