"""Bytes of a saved model by what they hold, and multiply-accumulates of a running one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from compression.adapters import Shipped
from compression.container import file_bytes
from compression.kinds import bare
from compression.layers import packed_of
from compression.methods import NoMethod
from compression.methods.base import CompressedWeight, Part, Shape
from compression.rules import shapes, target_layers
from compression.stored import as_shipped, shipped, stored_tensors

PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Bytes:
    """Bytes by part (base, scales, indices, adapter, untouched, header).

    ``model`` is the whole file; ``targets`` the targeted layers in it, without header, biases
    under ``untouched``. ``nominal_bits`` counts the values of the targets' weights and adapters.
    Targets that structure edits removed are 0 bytes.
    """

    model: Mapping[str, int]
    targets: Mapping[str, int]
    nominal_bits: int

    @property
    def file_bytes(self) -> int:
        """Length of the file."""
        return sum(self.model.values())


def measure(
    model: nn.Module,
    targets: Sequence[str],
    about: Mapping[str, str] | None = None,
) -> Bytes:
    """Count the file of a model, dense or compressed: it equals what ``save`` writes, exactly.

    Args:
        model: dense or compressed.
        targets: patterns of the targeted layers.
        about: as given to ``save``.

    Raises:
        InvalidSetting: a pattern that matches no layer.
        ArtifactError: the model cannot be saved as it is.
    """
    layers = target_layers(model, targets)
    whole: dict[str, int] = dict.fromkeys(PARTS, 0)
    ours = dict(whole)
    stored = stored_tensors(model)
    for name, (tensor, part) in stored.items():
        layer, _, leaf = name.rpartition(".")
        if layer in layers and leaf == "weight":
            part = "base"  # a target that is left dense
        whole[part] += tensor.nbytes
        if layer in layers:
            ours[part] += tensor.nbytes
    tensors = {name: tensor for name, (tensor, _) in stored.items()}
    done = as_shipped(model)
    length = file_bytes(tensors, done, about or {})
    whole["header"] = length - sum(whole.values())
    ships = shipped(model)
    bits = sum(_nominal_bits(layer, ships.get(name)) for name, layer in layers.items())
    for adapter, entries in done.adapted().items():
        own = {name: entry for name, entry in entries.items() if name in layers}
        bits += adapter.nominal_bits(shapes(model, own)) if own else 0
    return Bytes(whole, ours, bits)


def _nominal_bits(layer: nn.Module, ships: Shipped | None) -> int:
    packed = _packed(layer, ships)
    return packed.nominal_bits() if packed else 8 * int(bare(layer).weight.nbytes)


def _packed(layer: nn.Module, ships: Shipped | None) -> CompressedWeight | None:
    """The packed weight that is stored of a layer; None of one that stays dense."""
    if ships is None or ships.packed is None:
        return packed_of(layer)
    return None if isinstance(ships.packed.method, NoMethod) else ships.packed


@torch.no_grad()
def positions(model: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """How many outputs of one sample each Linear and Conv2d makes, by name: 1, or pixels, tokens.

    Args:
        model: dense or compressed; left in the mode that it was in.
        run: puts one sample through the model.
    """
    layers = target_layers(model, ["*"])
    found = dict.fromkeys(layers, 0)
    weights = {name: bare(module).weight for name, module in layers.items()}
    # With its wrapper: an adapter need not call the layer inside.
    names = {module: name for name, module in layers.items()}

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        found[names[module]] += output.numel() // len(weights[names[module]])

    hooks = [module.register_forward_hook(count) for module in names]
    training = model.training
    try:
        model.eval()
        run()
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found


def macs(model: nn.Module, positions: Mapping[str, int]) -> int:
    """Multiply-accumulates for one sample through all Linear and Conv2d layers and their adapters.

    Packed forms count what they need: r (m + n) for svd, one for each value that block_sparse
    keeps. Products elsewhere (attention scores, norms) are not counted.

    Args:
        model: dense or compressed.
        positions: as :func:`positions` of this model, or of one with the same structure, gives.
    """
    layers, ships = target_layers(model, ["*"]).items(), shipped(model)
    return sum(_layer_macs(ships.get(name), layer) * positions[name] for name, layer in layers)


def _layer_macs(ships: Shipped | None, module: nn.Module) -> int:
    packed = _packed(module, ships)
    shape: Shape = tuple(bare(module).weight.shape)
    added = ships.adapter.macs(shape, ships.rank) if ships and ships.adapter else 0
    return (packed.macs() if packed else math.prod(shape)) + added
