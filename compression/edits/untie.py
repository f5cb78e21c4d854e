"""Giving a layer a weight of its own."""

from __future__ import annotations

from torch import nn

from compression.edits.base import EDITS, Edit
from compression.registry import InvalidSetting, Text, knob


@EDITS.register("untie")
class Untie(Edit):
    """A layer stops sharing its weight with another: what a head needs to be compressed alone.

    The function stays the same. The file then holds both: the shared tensor under its other name,
    and what becomes of this one.
    """

    module: str = knob(
        "", Text(r"([^.]+(\.[^.]+)*)?", "a dotted module path"), help="the layer to make its own"
    )

    def apply(self, model: nn.Module) -> None:
        """See :meth:`Edit.apply`."""
        try:
            layer = model.get_submodule(self.module)
        except AttributeError:
            where = f"'{self.module}' is not in this {type(model).__name__}"
            raise InvalidSetting([f"untie.module: {where}"]) from None
        weight = layer._parameters.get("weight")
        if weight is None:
            raise InvalidSetting([f"untie.module: '{self.module}' has no weight"])
        layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
