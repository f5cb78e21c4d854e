"""A base that fades out of a tiny network, as the tests of PC-LoRA start it."""

import math

import torch
from tiny_task import TinyTask, make_trial

from trainables.build import build
from trainables.recipes import RECIPES
from trainables.record import Choice, Fingerprint
from trainables.stage import whole
from trainables.tasks import Prepared

EPOCHS = 5


class Head(TinyTask):
    """Only the last layer is compressed: all before it is run once."""

    targets = ("8",)


class Own(TinyTask):
    """A dense model of its own, which a test may spoil."""

    def __init__(self, model):
        object.__setattr__(self, "model", model)

    def prepare(self, seed):
        data = super().prepare(seed)
        return Prepared(self.model, data.train, data.validation, Fingerprint("own", "d"))


def trial(init="zeros", method="drop_base", epochs=EPOCHS, **recipe):
    return make_trial(
        method, init=init, epochs=epochs, recipe=Choice("progressive", recipe), seed=3
    )


def started(task=None, **settings):
    task = task or TinyTask()
    data, asked = task.prepare(0), trial(**settings)
    stage = whole(task, build(task, data, asked), data)
    return RECIPES.build("progressive", asked.recipe.args).start(stage, task, asked)


def moved(run, seed=0):
    """The run with factors and biases that are not what they start at."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in run.params:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return run


def images():
    return TinyTask().prepare(0).validation.tensors


def put(run, share):
    """The run at a share of the decay."""
    run.steps = math.ceil(share * run.end * run.total_steps)
    return run
