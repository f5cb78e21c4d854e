"""Hugging Face checkpoints with packed weights, in the format of compressed-tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compression.export.base import (
    DENSE,
    EXPORTERS,
    Exported,
    Exporter,
    Inputs,
    Source,
    lossless,
    quiet,
)
from compression.export.forms import Grid, form_of
from compression.kinds import bare, kind_of
from compression.layers import packed_of
from compression.merging import as_weight
from compression.peft_format import decoded
from compression.registry import InvalidSetting
from compression.rules import compression_of, layers_of

PACKED, WHOLE, SEVERAL = "pack-quantized", "int-quantized", "mixed-precision"
"""The format's own names: codes packed into int32, codes of one byte each, both in one file."""


@EXPORTERS.register("compressed_tensors")
class CompressedTensors(Exporter):
    """A folder for transformers' ``from_pretrained``: Linear layers on uniform grids stay packed.

    ``config.json`` says their bits, groups and symmetry, ``model.safetensors`` holds their codes:
    packed, where grids are symmetric, else a byte for each (transformers cannot load packed codes
    with zero points). All else is there as it is, in half precision where that loses nothing. A
    layer with an adapter is dense, the adapter in its weight: the format has no place for one.
    """

    modules = ("compressed_tensors", "transformers")

    def refusals(self, source: Source) -> Iterator[str]:
        """See :class:`Exporter`."""
        if not _is_pretrained(source.model):
            kind = type(source.model).__name__
            yield f"compressed-tensors: takes models of transformers; this one is a {kind}"

    def keeps(self, layer: nn.Module) -> str | None:
        """See :class:`Exporter`."""
        grid = None if hasattr(layer, "base_layer") else _grid(layer)
        return None if grid is None else f"{_format(grid)} {grid.bits} bits"

    def layers(self, model: nn.Module) -> dict[str, str]:
        """See :class:`Exporter`: none, of a model that it refuses; adapted ones dense."""
        known = layers_of(model)
        if not _is_pretrained(model):
            return dict.fromkeys(known, DENSE)
        return {name: self.keeps(layer) or DENSE for name, layer in known.items()}

    def write(self, source: Source, folder: Path) -> Exported:
        """See :class:`Exporter`: a folder ``model``."""
        self.check()
        if refused := list(self.refusals(source)):
            raise InvalidSetting(refused)
        model, path = source.model, folder / "model"
        kept = {name: grid for name, layer in layers_of(model).items() if (grid := _grid(layer))}
        kept = {name: grid for name, grid in kept.items() if self.keeps(layers_of(model)[name])}
        plain: Any = _without_adapters(model)
        state = {name: lossless(tensor) for name, tensor in plain.state_dict().items()}
        for name, grid in kept.items():
            del state[f"{name}.weight"]
            state |= {f"{name}.{key}": tensor for key, tensor in _tensors(grid).items()}
        with quiet("transformers"):
            plain.save_pretrained(path, state_dict=state)
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = "float32"
        if kept:
            config["quantization_config"] = _config(kept, self.layers(model))
        (path / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        return Exported(path, self.layers(model))

    def opened(self, path: Path, source: Source) -> Callable[[Inputs], Tensor]:
        """See :class:`Exporter`."""
        self.check()
        with quiet("transformers", "compressed_tensors"):
            model: Any = type(source.model)
            loaded = model.from_pretrained(str(path), dtype=torch.float32).eval()

        @torch.inference_mode()
        def run(inputs: Inputs) -> Tensor:
            return source.forward(loaded, inputs)

        return run


def _is_pretrained(model: nn.Module) -> bool:
    """Whether it is a model of transformers, as far as that is installed."""
    return any(
        (kind.__module__, kind.__name__) == ("transformers.modeling_utils", "PreTrainedModel")
        for kind in type(model).__mro__
    )


def _grid(layer: nn.Module) -> Grid | None:
    """The grid of a Linear layer, where the format has it: whole zeros, groups that fill rows."""
    packed = packed_of(layer)
    form = None if packed is None else form_of(packed)
    if not isinstance(form, Grid) or kind_of(bare(layer)) != "linear" or form.offset is not None:
        return None
    whole = isinstance(form.zero, Tensor) or form.zero.is_integer()
    return form if whole and form.codes.shape[1] % form.size == 0 else None


def _without_adapters(model: nn.Module) -> nn.Module:
    """The dense model with each adapter in the weight under it."""
    plain = decoded(model)
    for name, entry in compression_of(model).layers.items():
        if entry.adapted:
            weight = as_weight(model.get_submodule(name))
            plain.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
    return plain


def _format(grid: Grid) -> str:
    return PACKED if grid.symmetric else WHOLE


def _tensors(grid: Grid) -> dict[str, Tensor]:
    """What the format stores of a layer; codes and zeros are signed there."""
    from compressed_tensors.compressors import pack_to_int32

    half = 2 ** (grid.bits - 1)
    codes = (grid.codes.int() - half).to(torch.int8)
    scale = {"weight_scale": grid.scale.contiguous()}
    if not grid.symmetric:
        zeros = (grid.zeros.int() - half).to(torch.int8)
        return {"weight": codes, "weight_zero_point": zeros, **scale}
    shape = torch.tensor(grid.codes.shape)
    return {"weight_packed": pack_to_int32(codes, grid.bits), "weight_shape": shape, **scale}


def _config(kept: Mapping[str, Grid], layers: Mapping[str, str]) -> dict[str, Any]:
    """``quantization_config``: layers of one grid together, the others under ``ignore``."""
    groups: dict[str, dict[str, Any]] = {}
    for name, grid in kept.items():
        group = {"weights": _scheme(grid), "format": _format(grid)}
        groups.setdefault(json.dumps(group), {"targets": [], **group})["targets"].append(name)
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else SEVERAL,
        "quantization_status": "compressed",
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups.values())},
        "ignore": [name for name in layers if name not in kept],
    }


def _scheme(grid: Grid) -> dict[str, Any]:
    rows = grid.size == grid.codes.shape[1]
    strategy = {"strategy": "channel"} if rows else {"strategy": "group", "group_size": grid.size}
    return {"num_bits": grid.bits, "type": "int", "symmetric": grid.symmetric, **strategy}
