"""Giving a layer a weight of its own."""

from __future__ import annotations

from torch import nn

from compression.edits.base import EDITS, Edit
from compression.registry import InvalidSetting, Text, knob


@EDITS.register("untie")
class Untie(Edit):
    """A module shares its parameters no longer: what a tied head needs to be compressed alone.

    The function stays the same. The file then holds both: the shared tensor under its other name,
    and what becomes of this one.
    """

    module: str = knob(
        "", Text(r"([^.]+(\.[^.]+)*)?", "a dotted module path"), help="what becomes independent"
    )

    def apply(self, model: nn.Module) -> None:
        """See :meth:`Edit.apply`."""
        found = dict(model.named_modules()).get(self.module) if self.module else None
        if found is None:
            where = f"'{self.module}' is not in this {type(model).__name__}"
            raise InvalidSetting([f"untie.module: {where}"])
        for part in found.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    own = parameter.detach().clone()
                    part.register_parameter(name, nn.Parameter(own, parameter.requires_grad))
