"""PEFT's LoRA layers behind the adapter contract.

PEFT is imported inside the functions: it takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compression.adapters.base import AdapterStart
from compression.kinds import kind_of
from compression.registry import InvalidSetting

_NAME = "default"


def inject(
    model: nn.Module, layers: Mapping[str, tuple[int, float]], use_dora: bool = False
) -> None:
    """Wrap each named layer in PEFT's LoRA layer of its own (rank, alpha).

    PEFT's walk over a whole model is left out: it matches names by pattern, switches other
    adapters off, and fails on a model without parameters, which one with all weights packed and no
    biases is.

    Raises:
        InvalidSetting: a layer whose delta PEFT's form cannot express.
    """
    from peft import LoraConfig
    from peft.tuners import lora

    if errors := [e for name in layers for e in _objections(name, model.get_submodule(name))]:
        raise InvalidSetting(errors)
    wrappers = {"linear": lora.Linear, "conv2d": lora.Conv2d}
    config = LoraConfig(lora_dropout=0.0, init_lora_weights=False, use_dora=use_dora)
    rng = torch.get_rng_state()
    for name, (rank, alpha) in layers.items():
        layer = model.get_submodule(name)
        wrapper = wrappers[kind_of(layer) or ""]
        wrapped = wrapper(layer, _NAME, config=config, r=rank, lora_alpha=alpha)
        model.set_submodule(name, wrapped.train(layer.training))
    torch.set_rng_state(rng)  # PEFT draws weights that are overwritten at once


def _objections(name: str, module: nn.Module) -> list[str]:
    if kind_of(module) is None:
        return [f"{name}: PEFT's LoRA takes Linear and Conv2d, not {type(module).__name__}"]
    if not isinstance(module, nn.Conv2d):
        return []
    odd = {
        "groups": module.groups != 1,
        "dilation": module.dilation != (1, 1),
        "padding_mode": module.padding_mode != "zeros",
    }
    return [
        f"{name}: PEFT's LoRA does not take a Conv2d with {what}={getattr(module, what)!r}; "
        "leave the layer out or use adapter none"
        for what, is_odd in odd.items()
        if is_odd
    ]


def factors(model: nn.Module, layer: str) -> tuple[Tensor, Tensor]:
    """PEFT's live A and B of a layer, in their own shapes."""
    wrapped: Any = model.get_submodule(layer)
    return wrapped.lora_A[_NAME].weight, wrapped.lora_B[_NAME].weight


def magnitude_module(model: nn.Module, layer: str) -> Any:
    """PEFT's DoRA module of a layer, whose ``weight`` is the magnitude."""
    wrapped: Any = model.get_submodule(layer)
    return wrapped.lora_magnitude_vector[_NAME]


@torch.no_grad()
def set_factors(model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
    """Write B and A, with the scale alpha / rank divided out of B."""
    for layer, start in starts.items():
        a, b = factors(model, layer)
        a.copy_(start.A.view_as(a))
        b.copy_((start.B * (start.rank / start.alpha)).view_as(b))


def reset_magnitude(model: nn.Module, layer: str) -> None:
    """Set DoRA's magnitude to the row norms of base + delta, so that the layer starts as these."""
    from compression.adapters.peft_dora import install_magnitude

    install_magnitude(model.get_submodule(layer), _NAME)


@torch.no_grad()
def copy_stored(live: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Write stored tensors over live parameters of the same names."""
    for key, parameter in live.items():
        parameter.copy_(tensors[key].view_as(parameter))


def named(model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
    """A and B of the layers by ``layer.lora_A`` and ``layer.lora_B``."""
    found = {}
    for layer in layers:
        found[f"{layer}.lora_A"], found[f"{layer}.lora_B"] = factors(model, layer)
    return found
