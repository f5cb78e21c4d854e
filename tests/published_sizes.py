"""The published points of LoRA-Compression, and their sizes measured on the model they are of."""

from __future__ import annotations

import copy
from functools import cache

import torch
import torchvision
from torch import nn

from compression.adapters import ADAPTERS
from compression.inits import INITS
from compression.methods import METHODS, Method
from compression.model import Rule, compress_model
from compression.size import measure
from trainables.record import Parts, Size

RANKS = (0, 2, 4, 8, 16, 32, 64, 128)
NOMINAL = {
    "int1": ("32.00", "26.91", "23.22", "18.22", "12.74", "7.95", "4.54", "2.44"),
    "sparse": ("16.00", "14.62", "13.46", "11.61", "9.11", "6.37", "3.98", "2.27"),
}
"""Printed ratios by compressor, in the order of the ranks; 0 is without an adapter."""

ONE_OF_16 = {"tile_rows": 1, "tile_cols": 16, "largest": "signed"}
WAYS: dict[str, dict[str, Method]] = {
    "int1": {"as published": METHODS.build("sign"), "corrected": METHODS.build("int1")},
    "sparse": {
        "as published": METHODS.build("block_sparse", ONE_OF_16),
        "corrected": METHODS.build("block_sparse"),
    },
}


@cache
def resnet18() -> nn.Module:
    """The published network, with random weights: its sizes are those of any."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.resnet18(weights=None).eval()


@cache
def size_of(method: Method, rank: int) -> Size:
    """Of ResNet-18 with its last layer compressed, and LoRA of a rank on it, if above 0."""
    model = copy.deepcopy(resnet18())
    rule = Rule("fc", (method,))
    if rank:
        rule = Rule("fc", (method,), INITS.build("paper"), ADAPTERS.build("lora"), rank)
    compress_model(model, [rule], ["fc"])
    ours, dense = measure(model, ["fc"]), measure(resnet18(), ["fc"])
    return Size(
        Parts(**ours.model),
        Parts(**ours.targets),
        Parts(**dense.model),
        Parts(**dense.targets),
        ours.nominal_bits,
        dense.nominal_bits,
    )


def weight_ratio(size: Size) -> float:
    """As :attr:`Size.layer_ratio`, the bias left out on both sides."""
    bare = [parts.total - parts.untouched for parts in (size.dense_targets, size.targets)]
    return bare[0] / bare[1]
