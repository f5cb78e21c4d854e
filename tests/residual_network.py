"""A convolutional network with residual blocks, for the tests of structural methods."""

import copy

import torch
from networks import rule
from torch import nn

from compression.calibration import Calibration
from compression.collecting import collect
from compression.methods import METHODS
from compression.methods.base import Scene
from compression.model import compress_model, target_layers


class Residual(nn.Module):
    """conv, depthwise, conv with BatchNorms, around which the input is added."""

    def __init__(self, channels=8, hidden=12, groups=1):
        super().__init__()
        self.up, self.norm1 = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.deep = nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups or hidden)
        self.down, self.norm2 = nn.Conv2d(hidden, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x):
        h = self.deep(self.norm1(self.up(x)).relu()).relu()
        return x + self.norm2(self.down(h))


def network(seed=0, groups=0):
    torch.manual_seed(seed)
    stem = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    blocks = nn.Sequential(*(Residual(groups=groups) for _ in range(3)))
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 5)]
    model = nn.Sequential(*stem, blocks, *head)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def inputs(count=16):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def calibration(x=None):
    x = inputs() if x is None else x
    return Calibration(
        len(x), lambda rows: x[rows], lambda m, b: m(b), lambda m, b: m(b).square().mean()
    )


def scene(model, targets=("*",), needs=()):
    layers, examples = target_layers(model, targets), calibration()
    return Scene(model, layers, collect(model, layers, needs, examples), examples)


def pruned(method, model=None, targets=("*",), adapter="none", rank=0, **args):
    model = model or network()
    made = rule(METHODS.build(method, args), adapter=adapter, rank=rank)
    return compress_model(model, [made], targets, calibration=calibration())


def edited(model, plan):
    model = copy.deepcopy(model)
    for edit in plan.edits:
        edit.apply(model)
    return model
