"""Removing channels: structured pruning."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compression.edits.base import EDITS, Edit
from compression.registry import InvalidSetting, Text, knob

_NAMES = r"([^.,]+(\.[^.,]+)*(,[^.,]+(\.[^.,]+)*)*)?"
_BITMAP = Text(r"([0-9]{1,9}:[A-Za-z0-9_-]+)?", "a bitmap count:base64")
_PATHS = Text(_NAMES, "dotted module paths with commas between them")


@EDITS.register("keep_channels")
class KeepChannels(Edit):
    """The channels that some modules keep of their outputs and others of their inputs.

    ``W -> W[kept]`` and ``W -> W[:, kept]``, with biases, statistics and sizes. ``kept`` is a
    bitmap over the channels, ``count:base64``: where a module has k times as many, each bit stands
    for k in a row (a linear layer behind a flattened convolution). A depthwise convolution and a
    BatchNorm have outputs only; other grouped convolutions keep as many in each group. Stored
    bytes: those of the tensors that are left, and in the header ``4 ceil(count / 24)`` for the
    bitmap beside the names.
    """

    kept: str = knob("", _BITMAP, help="the channels that stay")
    outputs: str = knob("", _PATHS, help="modules that lose output channels")
    inputs: str = knob("", _PATHS, help="modules that lose input channels")

    def apply(self, model: nn.Module) -> None:
        """See :meth:`Edit.apply`."""
        count, bits = _bitmap(self.kept)
        modules = dict(model.named_modules())
        slices = [*_slices(modules, self.outputs, "outputs"), *_slices(modules, self.inputs)]
        if not slices:
            raise InvalidSetting(["keep_channels.outputs: name modules, here or under inputs"])
        if errors := [text for part in slices for text in part.misfits(count)]:
            raise InvalidSetting(errors)  # before a mask of any length that a file may ask for
        kept = _mask(count, bits)
        if errors := [text for part in slices for text in part.problems(kept)]:
            raise InvalidSetting(errors)
        for part in slices:
            part.apply(kept)


def text_of(kept: Tensor) -> str:
    """A mask (c,) as ``count:base64``, in the coarsest bits that tell it."""
    count = len(kept)
    widths = (w for w in range(count, 0, -1) if count % w == 0)
    width = next(w for w in widths if (kept.view(-1, w) == kept.view(-1, w)[:, :1]).all())
    bits = "".join("01"[bit] for bit in kept[::width].tolist())
    data = int(bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")
    return f"{len(bits)}:{base64.urlsafe_b64encode(data).decode().rstrip('=')}"


def mask_of(text: str) -> Tensor:
    """The mask (c,) of :func:`text_of`, in the bits that were written.

    Raises:
        InvalidSetting: it is no such text, or keeps nothing.
    """
    return _mask(*_bitmap(text))


def _bitmap(text: str) -> tuple[int, int]:
    """How many bits, and these as one number, the first as the least digit."""
    count, _, code = text.partition(":")
    if len(code) % 4 == 1:
        raise InvalidSetting([f"keep_channels.kept: '{text}' is cut short"])
    bits = int.from_bytes(base64.urlsafe_b64decode(code + "=" * (-len(code) % 4)), "little")
    if not bits or bits >> int(count):
        raise InvalidSetting([f"keep_channels.kept: '{text}' is no bitmap of some channels"])
    return int(count), bits


def _mask(count: int, bits: int) -> Tensor:
    return torch.tensor([bits >> i & 1 for i in range(count)], dtype=torch.bool)


def is_depthwise(module: nn.Module) -> bool:
    """Whether each channel of a convolution is computed from itself alone."""
    return isinstance(module, nn.Conv2d) and (
        1 < module.groups == module.in_channels == module.out_channels
    )


class _Slice(NamedTuple):
    """What one module loses on one side."""

    name: str
    module: nn.Module
    side: str

    def channels(self) -> int:
        """How many there are; 0 where the module has no such side."""
        module, ours = self.module, self.side == "outputs"
        if isinstance(module, nn.Conv2d):
            return (
                module.out_channels if ours else 0 if is_depthwise(module) else module.in_channels
            )
        if isinstance(module, nn.Linear):
            return module.out_features if ours else module.in_features
        return int(module.num_features) if isinstance(module, _BatchNorm) and ours else 0

    def misfits(self, bits: int) -> Iterator[str]:
        """Why a bitmap of this length cannot be meant for it."""
        where, count = f"keep_channels.{self.side}: '{self.name}'", self.channels()
        if not count:
            yield f"{where} is a {type(self.module).__name__}, which has no {self.side} to remove"
        elif count % bits:
            yield f"{where} has {count} {self.side}, the bitmap is of {bits}"

    def problems(self, kept: Tensor) -> Iterator[str]:
        """Why it cannot be done with a bitmap that fits."""
        if isinstance(self.module, nn.Conv2d) and not is_depthwise(self.module):
            left = self._mask(kept).view(self.module.groups, -1).sum(1)
            if (left != left[0]).any() or not left[0]:
                where = f"keep_channels.{self.side}: '{self.name}'"
                yield f"{where} would keep unequal numbers of {self.side} in its groups"

    def _mask(self, kept: Tensor) -> Tensor:
        return kept.repeat_interleave(self.channels() // len(kept))

    def apply(self, kept: Tensor) -> None:
        """Slice tensors and sizes."""
        mask, module = self._mask(kept), self.module
        left = int(mask.sum())
        if self.side == "inputs":
            _replace(module, "weight", _columns(module, mask))
            size = "in_channels" if isinstance(module, nn.Conv2d) else "in_features"
            setattr(module, size, left)
            return
        depthwise = is_depthwise(module)
        for name in ("weight", "bias", "running_mean", "running_var"):
            if (tensor := getattr(module, name, None)) is not None:
                _replace(module, name, tensor.detach()[mask.to(tensor.device)])
        sizes = ("in_channels", "groups") if depthwise else ()
        for size in ("out_channels", "out_features", "num_features", *sizes):
            if hasattr(module, size):
                setattr(module, size, left)


def _slices(modules: Mapping[str, nn.Module], names: str, side: str = "inputs") -> Iterator[_Slice]:
    for name in filter(None, names.split(",")):
        if name not in modules:
            raise InvalidSetting([f"keep_channels.{side}: '{name}' is not in this model"])
        yield _Slice(name, modules[name], side)


def _columns(module: nn.Module, mask: Tensor) -> Tensor:
    """The weight for the inputs that stay: each group of outputs has those of its own group."""
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    groups, mask = module.groups if isinstance(module, nn.Conv2d) else 1, mask.to(weight.device)
    by_group = weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2)  # (G, n, m, ...)
    left = by_group.flatten(0, 1)[mask]
    return left.view(groups, -1, *left.shape[1:]).transpose(1, 2).flatten(0, 1)


def _replace(module: nn.Module, name: str, values: Tensor) -> None:
    values = values.clone(memory_format=torch.contiguous_format)
    old = getattr(module, name)
    isparameter = isinstance(old, nn.Parameter)
    setattr(module, name, nn.Parameter(values, old.requires_grad) if isparameter else values)
