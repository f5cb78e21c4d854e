"""Layers whose ranks move, and steps as a recipe makes them."""

import torch
from networks import adapted, inputs
from torch import nn
from torch.nn import functional as F

from compression.acting import Moment
from compression.adapters import ADAPTERS
from compression.adapters.ranks.gated import Gated, GatedLayer
from compression.model import trainable

GATED = [name for name in ADAPTERS if issubclass(ADAPTERS[name], Gated)]
LR = 1e-2
INPUT = {"linear": (7, 12), "conv": (2, 4, 8, 8)}


def acting_of(model, adapter):
    names = list(model.compression.adapted()[adapter])
    return adapter.acting(model, names, seed=3), gated_or_none(model, names)


def gated_or_none(model, names):
    layers = {name: model.get_submodule(name) for name in names}
    return layers if all(isinstance(m, GatedLayer) for m in layers.values()) else {}


def train(model, acting, steps, start=0, optimizer=None, total=None, watch=None):
    """Some steps as a recipe makes them."""
    optimizer = optimizer or torch.optim.Adam(trainable(model), lr=LR)
    for step in range(start, start + steps):
        moment = Moment(step, total or steps, LR)
        acting.before_step(moment)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs()), torch.tensor([0, 1, 2, 3]))
        penalty = acting.penalty()
        (loss if penalty is None else loss + penalty).backward()
        acting.after_backward(moment)
        optimizer.step()
        acting.after_step(moment)
        if watch:
            watch(moment)
    return optimizer


def trained(name, steps=20, **knobs):
    adapter = ADAPTERS.build(name, knobs)
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    train(model, acting, steps)
    return model, acting, layers


def live(layers):
    return {name: len(layer.index()) for name, layer in layers.items()}


def shook(layer):
    """Random factors and gates, as after some training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (layer.lora_A, layer.lora_B, layer.gate):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return layer


def one_layer(most=5, kind="linear", scale=1.5):
    torch.manual_seed(0)
    base = nn.Linear(12, 9) if kind == "linear" else nn.Conv2d(4, 6, 3, padding=1, stride=2)
    return shook(GatedLayer(base.requires_grad_(False), most, scale, trained_gate=True))
