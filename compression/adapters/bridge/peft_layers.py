"""PEFT's layers, one group at a time. PEFT is imported inside the functions: it takes seconds.

PEFT's walk over a whole model is left out: it matches names by pattern, switches other adapters
off, and fails on a model without parameters. The target layers go into a holder of their own, PEFT
adapts that, and the wrapped layers go back.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compression.methods.base import Shape

PEFT_NAME = "default"
"""What PEFT calls the one adapter of a layer, inside the layer."""
HOLDER = r"layer\d+"
"""The names of all layers in the holder, as a pattern."""


class Row(Protocol):
    """What making a layer needs to know of a bridged adapter."""

    @property
    def peft_type(self) -> str:
        """PEFT's name of its type."""

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """Of PEFT's config."""

    def making(self) -> AbstractContextManager[Any]:
        """Around PEFT's making of the layers."""

    def mend(self, wrapped: nn.Module) -> None:
        """What of PEFT's layer has to be otherwise."""


def make_config(row: Row, targets: object, rank: int, alpha: float) -> Any:
    """PEFT's config of an adapter; ``targets`` as PEFT takes them."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils.peft_types import PeftType

    make: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(row.peft_type)]
    return make(**{"target_modules": targets, **row.arguments(rank, alpha)})


def wrap(row: Row, bases: Sequence[nn.Module], rank: int, alpha: float) -> list[nn.Module]:
    """PEFT's layers around plain ones, at one rank and alpha, base parameters as they were.

    PEFT's own tensors are float32 at least, also where the base is in half precision.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    names = [f"layer{i}" for i in range(len(bases))]
    holder = nn.ModuleDict(dict(zip(names, bases, strict=True)))
    holder["spare"] = nn.Linear(1, 1)  # PEFT asks the first parameter for its device
    holder["spare"].to(bases[0].weight.device)  # type: ignore[arg-type]
    trained = [(p, p.requires_grad) for base in bases for p in base.parameters()]
    with warnings.catch_warnings(), row.making(), _widened(bases):
        warnings.simplefilter("ignore")  # on bases that are not saved, and the like: all on purpose
        config = make_config(row, names, rank, alpha)
        PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](holder, config, PEFT_NAME)
    for parameter, requires_grad in trained:
        parameter.requires_grad_(requires_grad)
    wrapped = [holder[name] for name in names]
    for module in wrapped:
        row.mend(module)
    return [module.train(base.training) for module, base in zip(wrapped, bases, strict=True)]


@contextmanager
def _widened(bases: Sequence[nn.Module]) -> Iterator[None]:
    """Bases in half precision are float32 within: PEFT makes its tensors of the base's dtype."""
    own = [t for base in bases for t in (*base._parameters.values(), *base._buffers.values())]
    short = [t for t in own if t is not None and t.is_floating_point() and t.itemsize < 4]
    before = [(tensor, tensor.data) for tensor in {id(t): t for t in short}.values()]
    try:
        for tensor, values in before:
            tensor.data = values.float()
        yield
    finally:
        for tensor, values in before:
            tensor.data = values


def wrap_shapes(row: Row, layers: Sequence[tuple[Shape, int]]) -> list[nn.Module]:
    """PEFT's layers around empty ones of these weight shapes, each at its rank."""
    rng = torch.get_rng_state()
    groups: dict[int, list[int]] = {}
    for index, (_, rank) in enumerate(layers):
        groups.setdefault(rank, []).append(index)
    made: dict[int, nn.Module] = {}
    for rank, indices in groups.items():
        bases = [empty(layers[i][0]) for i in indices]
        made |= dict(zip(indices, wrap(row, bases, rank, 1.0), strict=True))
    torch.set_rng_state(rng)  # PEFT draws values that nobody looks at
    return [made[index] for index in range(len(layers))]


def empty(shape: Shape) -> nn.Module:
    """A layer of a weight shape, all zeros: pages that nobody touches take no memory."""
    layer: nn.Module
    if len(shape) == 2:
        layer = nn.Linear(shape[1], shape[0], device="meta")
    else:
        layer = nn.Conv2d(shape[1], shape[0], (shape[2], shape[3]), device="meta")
    for name, parameter in list(layer.named_parameters()):
        layer.register_parameter(name, nn.Parameter(torch.zeros(parameter.shape)))
    return layer


def suffix_of(key: str) -> str:
    """A parameter's name in the file from its name in PEFT's layer."""
    parts = [part for part in key.split(".") if part != PEFT_NAME]
    return ".".join(parts[:-1] if parts[-1] == "weight" and len(parts) > 1 else parts)


def held(module: nn.Module, attribute: str) -> Tensor:
    """A tensor that PEFT keeps by the name of the adapter, in a container or alone."""
    value: Any = getattr(module, attribute)
    tensor: Tensor = value if isinstance(value, Tensor) else value[PEFT_NAME]
    return tensor


_ODD: Mapping[str, Callable[[nn.Conv2d], bool]] = {
    "groups": lambda layer: layer.groups != 1,
    "dilation": lambda layer: layer.dilation != (1, 1),
    "padding_mode": lambda layer: layer.padding_mode != "zeros",
    "kernel_size": lambda layer: len(set(layer.kernel_size)) > 1,
    "stride": lambda layer: len(set(layer.stride)) > 1,
    "padding": lambda layer: isinstance(layer.padding, str) or len(set(layer.padding)) > 1,
}
NO_LORA = frozenset({"groups", "dilation", "padding_mode"})
"""Where the delta of PEFT's LoRA is no convolution by A and then by B."""
SQUARE = frozenset(_ODD)
"""What code that takes a convolution for square and plain overlooks."""


def odd_settings(layer: nn.Module, overlooked: frozenset[str]) -> Iterator[str]:
    """Of a convolution: those of its settings that are overlooked, as ``what=value``."""
    if isinstance(layer, nn.Conv2d):
        for what in sorted(overlooked):
            if _ODD[what](layer):
                yield f"{what}={getattr(layer, what)!r}"


def oddities(
    adapter: str, name: str, layer: nn.Module, overlooked: frozenset[str]
) -> Iterator[str]:
    """Settings of a convolution that PEFT's layer overlooks: a sentence each."""
    for what in odd_settings(layer, overlooked):
        yield (
            f"{name}: PEFT's {adapter} does not take a Conv2d with {what}; "
            "leave the layer out or use another adapter"
        )


def divisors(*numbers: int) -> str:
    """What divides all the numbers, in words, the larger ones first; at most eight."""
    common = math.gcd(*numbers)
    found = [d for d in range(common, 0, -1) if common % d == 0]
    return ", ".join(map(str, found[:8]))
