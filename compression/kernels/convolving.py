"""A convolution by blocks of its output channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def convolve(layer: nn.Conv2d, x: Tensor, blocks: Iterable[Tensor]) -> Tensor:
    """Output (..., m, h', w') of the layer's geometry under a weight in blocks of rows, no bias."""
    padding: str | tuple[int, ...] = layer.padding
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = (0, 0)
    found = [
        F.conv2d(own, part, None, layer.stride, padding, layer.dilation, groups)
        for part, own, groups in _with_inputs(layer, x, blocks)
    ]
    return torch.cat(found, -3)


def _with_inputs(
    layer: nn.Conv2d, x: Tensor, blocks: Iterable[Tensor]
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Each block, cut where groups begin, with the channels that it reads, and its groups."""
    rows, channels = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    at = 0
    for block in blocks:
        while len(block):
            whole = len(block) // rows if at % rows == 0 else 0
            take = whole * rows or min(len(block), rows - at % rows)
            groups, first = max(whole, 1), at // rows
            yield block[:take], x.narrow(-3, first * channels, groups * channels), groups
            block, at = block[take:], at + take
