"""Seconds of methods over whole networks."""

from __future__ import annotations

import time

import torch
from real_layers import stats_of
from torch import nn

from compression.methods import METHODS
from compression.methods.structured.structural import Structural
from trainables.models import vision


def data_free() -> list[str]:
    """Methods that need no calibration and keep the structure."""
    whole = [name for name in METHODS if not issubclass(METHODS[name], Structural)]
    return [name for name in whole if not METHODS.build(name).needs]


def seconds(name: str, model: nn.Module) -> float:
    """Of a method over every layer that it takes."""
    kinds = METHODS.build(name).kinds
    weights = [
        layer.weight.detach()
        for layer in model.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and type(layer).__name__.lower() in kinds
    ]
    begun = time.perf_counter()
    for weight in weights:
        METHODS.build(name).compress(weight)
    return time.perf_counter() - begun


def speed() -> dict[str, dict[str, float]]:
    """Seconds over every layer that a method takes."""
    models = {
        "EfficientNet-Lite0": vision.architecture("timm/tf_efficientnet_lite0"),
        "ResNet-18": vision.architecture("resnet18"),
    }
    found = {
        name: {title: seconds(name, model) for title, model in models.items()}
        for name in data_free()
    }
    weight, known = torch.randn(1280, 1000), stats_of(torch.randn(4096, 1000))
    begun = time.perf_counter()
    METHODS.build("gptq").compress(weight, known)
    found["gptq, 1280 x 1000"] = {"one layer": time.perf_counter() - begun}
    print("\nseconds")
    for name, times in sorted(found.items(), key=lambda item: -max(item[1].values())):
        print(f"  {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in times.items()))
    return found
