"""What stands around a layer that carries an adapter, as the rest of the model sees it."""

from __future__ import annotations

from torch import Tensor, nn


class Wrapper(nn.Module):
    """A module around ``base_layer``, in its mode, with its weight and bias.

    While ``_disable_adapters`` is set, as on PEFT's layers, its output is the base's alone.
    """

    def __init__(self, base: nn.Module) -> None:
        """Around a layer. A subclass adds what is its own."""
        super().__init__()
        self.base_layer = base
        self._disable_adapters = False
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The base's: models ask their layers for its dtype."""
        return self.base_layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base_layer.bias  # type: ignore[return-value]
