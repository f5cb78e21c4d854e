"""A task that trains next to nothing: random images, labelled by the dense network itself."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from networks import network, pattern_for
from torch import nn

from trainables.record import NONE, Choice, Fingerprint, LayerRule, Trial
from trainables.tasks import Prepared, Task, TensorSplit


class TinyTask(Task):
    """Convolutions with BatchNorm and linear layers on 8x8 noise; 7 classes."""

    @property
    def chance(self):
        return 1 / 7

    def architecture(self):
        return network(seed=99)

    def prepare(self, seed):
        return Prepared(dense(), split(96, 1), split(48, 2), Fingerprint("w", "d"))

    def test(self, seed):
        return split(48, 3)


def dense():
    """The teacher, with BatchNorm statistics that training would move."""
    model = network()
    model[1].running_mean.copy_(torch.linspace(-0.2, 0.2, 6))
    model[1].running_var.copy_(torch.linspace(0.5, 1.5, 6))
    return model


def split(count, seed):
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return TensorSplit(images, dense()(images).argmax(-1))


def make_trial(
    method="int1", adapter="lora", optimizer="adam", lr=1e-2, epochs=4, init="zeros", **more
):
    """A uniform trial; without epochs there is no optimizer."""
    rank = 0 if adapter == "none" else 2
    rule = LayerRule(
        (Choice(method),), Choice(init), Choice(adapter), rank, pattern=pattern_for(method)
    )
    plain = Trial(Choice("tiny"), (rule,))
    if not epochs:
        return replace(plain, **more)
    training = {"optimizer": Choice(optimizer), "lr": lr, "batch_size": 32, "epochs": epochs}
    return replace(plain, **training | more)


class Poisoned(TinyTask):
    """One training image, at position 40, is NaN."""

    def prepare(self, seed):
        data = super().prepare(seed)
        data.train.tensors[40] = torch.nan
        return data


class Shelf:
    """Files in memory."""

    def __init__(self):
        self.files = {}
        self.writes = []

    def write_bytes(self, name, data):
        self.files[name] = data
        self.writes.append(name)


def frozen(model: nn.Module):
    """A copy of everything in the model that training may not change."""
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    everything = dict(model.named_parameters()) | dict(model.named_buffers())
    return {n: copy.deepcopy(t.detach()) for n, t in everything.items() if n not in trained}


__all__ = ["NONE", "Poisoned", "Shelf", "TinyTask", "dense", "frozen", "make_trial", "split"]
