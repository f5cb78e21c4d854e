"""Adapters as PEFT stores them: a folder that plain PEFT opens over the decoded model."""

from __future__ import annotations

import copy
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compression.adapters.bridge.bridged import PEFT_NAME, Bridged
from compression.adapters.bridge.peft_layers import held, make_config
from compression.kinds import bare
from compression.layers import packed_of
from compression.model import as_saved
from compression.packed_layers import decode_packed
from compression.registry import InvalidSetting
from compression.rules import LayerEntry, compression_of

_SAVED = ("save_projection", "save_precomputed_indices", "save_indices")
"""Settings of PEFT's under which it stores what it froze."""


def decoded(model: nn.Module) -> nn.Module:
    """The dense architecture of a compressed model, with decoded weights and without adapters.

    A copy, in eval mode, nothing trainable.
    """
    base = copy.deepcopy(model)
    for name, entry in compression_of(model).layers.items():
        layer = bare(base.get_submodule(name))
        if entry.adapted:
            base.set_submodule(name, layer)
        decode_packed(layer)
        if packed_of(layer) is not None:
            weight = layer.weight.clone()
            del layer.weight, layer.packed
            layer.__dict__.pop("forward", None)  # of a layer without a base
            layer.weight = nn.Parameter(weight)
    base.__dict__.pop("compression", None)
    return base.requires_grad_(False).eval()


def write_peft(model: nn.Module, folder: str) -> None:
    """Write the model's adapter as ``PeftModel.from_pretrained(decoded(model), folder)`` reads it.

    ``adapter_config.json`` and ``adapter_model.safetensors``, values as our own file holds them.
    What is written is opened again and compared before it is left there.

    Args:
        model: compressed, all its adapted layers under one adapter that is PEFT's.
        folder: made if it is not there.

    Raises:
        InvalidSetting: PEFT has no form for this adapter, with the reason.
    """
    adapter, entries = _adapter(model)
    with as_saved(model), tempfile.TemporaryDirectory() as aside:
        from peft import PeftModel, get_peft_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Any = get_peft_model(decoded(model), _config(adapter, entries))
            _copy(adapter, entries, model, made.base_model.model)
            made.save_pretrained(aside)
            again: Any = PeftModel.from_pretrained(decoded(model), aside)
            _compare(adapter, entries, model, again.base_model.model)
            made.save_pretrained(folder)


def _adapter(model: nn.Module) -> tuple[Bridged, Mapping[str, LayerEntry]]:
    found = compression_of(model).adapted()
    if len(found) != 1:
        names = ", ".join(sorted(adapter.name for adapter in found)) or "none"
        raise InvalidSetting([f"PEFT's file is of one adapter for all layers; here: {names}"])
    (adapter, entries), *_ = found.items()
    if not isinstance(adapter, Bridged):
        raise InvalidSetting(
            [f"{adapter.name} is not one of PEFT's adapters: PEFT has no form of it"]
        )
    return adapter, entries


def _config(adapter: Bridged, entries: Mapping[str, LayerEntry]) -> Any:
    """PEFT's config: the layers by their full names, and ranks of their own where they differ."""
    (first, *_), names = entries.values(), "|".join(map(re.escape, entries))
    config = make_config(adapter, "", first.rank, first.alpha)
    config.target_modules = f"(?:{names})"
    for setting in _SAVED:
        if hasattr(config, setting):
            setattr(config, setting, True)
    kinds = {(entry.rank, entry.alpha) for entry in entries.values()}
    if len(kinds) == 1:
        return config
    if not hasattr(config, "rank_pattern") or (
        adapter.scaled and not hasattr(config, "alpha_pattern")
    ):
        ranks = ", ".join(f"{name}: {entry.rank}" for name, entry in entries.items())
        raise InvalidSetting([f"PEFT's {adapter.name} has one rank for all layers; here {ranks}"])
    config.rank_pattern = {f"^{re.escape(name)}": entry.rank for name, entry in entries.items()}
    if adapter.scaled:
        config.alpha_pattern = {f"^{re.escape(n)}": entry.alpha for n, entry in entries.items()}
    return config


def _tensors(adapter: Bridged, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All that makes up an adapted layer's delta, by PEFT's names within the layer."""
    for key, parameter in layer.named_parameters():
        if not key.startswith("base_layer."):
            yield key, parameter
    for attribute in (*adapter.fills(), *adapter.derived, *adapter.kept):
        yield attribute, held(layer, attribute)


@torch.no_grad()
def _copy(
    adapter: Bridged, entries: Mapping[str, LayerEntry], model: nn.Module, theirs: nn.Module
) -> None:
    for name in entries:
        target = dict(_tensors(adapter, theirs.get_submodule(name)))
        for key, tensor in _tensors(adapter, model.get_submodule(name)):
            if (found := target.get(key)) is None or found.shape != tensor.shape:
                form = None if found is None else tuple(found.shape)
                raise InvalidSetting(
                    [
                        f"{adapter.name}: plain PEFT makes '{name}.{key}' of shape {form} here, "
                        f"it is {tuple(tensor.shape)}"
                    ]
                )
            found.copy_(tensor)


@torch.no_grad()
def _compare(
    adapter: Bridged, entries: Mapping[str, LayerEntry], model: nn.Module, theirs: nn.Module
) -> None:
    lost: dict[str, str] = {}
    for name in entries:
        found = dict(_tensors(adapter, theirs.get_submodule(name)))
        for key, tensor in _tensors(adapter, model.get_submodule(name)):
            if not torch.equal(found[key].cpu(), tensor.cpu()):
                lost.setdefault(key.removesuffix(f".{PEFT_NAME}"), name)
    if lost:
        what = ", ".join(f"{key} (of '{name}')" for key, name in lost.items())
        raise InvalidSetting([f"PEFT's file of {adapter.name} does not hold {what}"])
    for name in entries:
        ours, other = model.get_submodule(name), theirs.get_submodule(name)
        x = _probe(bare(ours))
        if not torch.allclose(ours(x), other(x), rtol=1e-4, atol=1e-5):
            raise InvalidSetting(
                [f"{adapter.name}: plain PEFT computes something else at '{name}'"]
            )


def _probe(layer: nn.Module) -> Tensor:
    """Some inputs for a layer."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    shape: tuple[int, ...] = (3, weight.shape[1])
    if isinstance(layer, nn.Conv2d):
        shape = (2, layer.in_channels, *(2 * (k - 1) * d + 2 for k, d in _reach(layer)))
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return made.to(weight)


def _reach(layer: nn.Conv2d) -> Iterator[tuple[int, int]]:
    """Side and dilation of a kernel, by dimension."""
    return zip(layer.kernel_size, layer.dilation, strict=True)
