"""Leaving a module out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from compression.edits.base import EDITS, Edit
from compression.registry import InvalidSetting, Text, knob


class Skipped(nn.Identity):
    """Gives back its first argument, whatever else a block is called with.

    It keeps the plain settings of ``block``, which a model may ask its blocks for.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.training = block.training
        for name, value in vars(block).items():
            if isinstance(value, bool | int | float | str) and not name.startswith("_"):
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first argument."""
        return args[0] if args else next(iter(kwargs.values()))


@EDITS.register("bypass")
class Bypass(Edit):
    """A module gives back its input: depth pruning.

    x -> f(x, ...) becomes x -> x, so f gives one tensor of the shape of its first argument. Stored
    bytes and multiply-accumulates of the module: 0.
    """

    module: str = knob(
        "", Text(r"([^.]+(\.[^.]+)*)?", "a dotted module path"), help="the module to leave out"
    )

    def apply(self, model: nn.Module) -> None:
        """See :meth:`Edit.apply`."""
        if problem := self._problem(model):
            raise InvalidSetting([f"bypass.module: {problem}"])
        model.set_submodule(self.module, Skipped(model.get_submodule(self.module)))

    def _problem(self, model: nn.Module) -> str | None:
        if not self.module:
            return "name a module; the whole model cannot be bypassed"
        try:
            model.get_submodule(self.module)
        except AttributeError:
            return f"'{self.module}' is not in this {type(model).__name__}"
        inside, outside = dict[int, str](), dict[int, str]()
        for name, tensor in _tensors(model):
            within = name.startswith(f"{self.module}.")
            (inside if within else outside)[id(tensor)] = name
        if tied := [f"{inside[key]} = {outside[key]}" for key in inside if key in outside]:
            return f"'{self.module}' shares tensors with what stays ({', '.join(tied)})"
        return None


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under every name that they have."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
