"""Single adapted layers, and the weights that they amount to."""

import torch
from torch import nn

from compression.adapters import ADAPTERS, AdapterStart


def attached(adapter, count=1, shape=(16, 32), rank=4, alpha=None, noise=0.3, bias=True):
    """A model of equal Linear layers under an adapter, its trained values moved by noise."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(shape[1], shape[0], bias=bias) for _ in range(count)))
    model.requires_grad_(False)
    rank = rank if adapter.ranked else 0
    start = AdapterStart(rank, float(rank if alpha is None else alpha))
    adapter.attach(model, {name: start for name, _ in model.named_children()})
    made = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(noise * torch.randn(parameter.shape, generator=made))
    return model.eval()


def one(name, knobs=None, **more):
    """One such layer, by the adapter's name."""
    return attached(ADAPTERS.build(name, knobs or {}), **more)[0]


@torch.no_grad()
def weight_of(layer):
    """The weight (m, n) that a wrapped Linear computes with."""
    columns = layer.base_layer.weight.shape[1]
    return (layer(torch.eye(columns)) - layer(torch.zeros(1, columns))).T


@torch.no_grad()
def delta_of(layer):
    """What the adapter adds to the weight."""
    return weight_of(layer) - layer.base_layer.weight


def values(layer, attribute):
    """A tensor of PEFT's, by the one adapter of the layer."""
    found = getattr(layer, attribute)["default"]
    return found.weight.detach() if isinstance(found, nn.Module) else found.detach()
