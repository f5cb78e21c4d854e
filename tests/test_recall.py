"""A trial with the base outputs of its first layers in memory is the same trial."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from networks import WHOLE
from tiny_task import TinyTask, make_trial
from torch import nn

from compression.methods import METHODS
from trainables.build import build
from trainables.calibration import calibrated
from trainables.frozen import recall
from trainables.frozen.recall import recalling
from trainables.hardware.allocator import keep_freed_memory
from trainables.recipes import RECIPES
from trainables.record import Fingerprint
from trainables.splits import TensorSplit
from trainables.stage import Stage
from trainables.tasks import Prepared, observe

TRAINED = ["lora", "dora"]
READS = {"fc": "x"}


class Head(nn.Module):
    """A layer that is called with the features, and one behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.last = nn.Linear(12, 9), nn.Linear(9, 4)

    def forward(self, x):
        return self.last(self.fc(x).relu())


class HeadTask(TinyTask):
    def architecture(self):
        return Head()

    def prepare(self, seed):
        return Prepared(Head().eval(), split(50, 1), split(20, 2), Fingerprint("head", "d"))


def split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    return TensorSplit({"x": torch.randn(count, 12, generator=generator)}, labels)


def staged(method="rtn", adapter="lora"):
    task = HeadTask()
    data = calibrated(task.prepare(0), 40, 0)
    trial = make_trial(method=method, adapter=adapter, epochs=3)
    model = build(task, data, trial)

    def forward(inputs):
        return model(inputs["x"])

    return (
        task,
        trial,
        Stage(
            model, forward, data.train, data.validation, data.model, lambda m: forward, reads=READS
        ),
    )


def trained(task, trial, stage):
    run = RECIPES.build("recover").start(stage, task, trial)
    losses = [run.advance().train_loss for _ in range(3)]
    return losses, task.score(observe(task, stage.forward, stage.validation), split(20, 2).labels)


# Methods that take the head; which layer is recalled is told by its inputs, not by the method.
# Where a bias is trained, outputs change.
LINEAR = [n for n in WHOLE if "linear" in METHODS[n]().kinds and not METHODS[n].base_is_gone]


@pytest.mark.parametrize(
    ("method", "adapter"),
    [(name, "lora") for name in LINEAR] + [("rtn", name) for name in TRAINED if name != "lora"],
)
def test_the_trial_is_the_same(method, adapter):
    task, trial, plain = staged(method, adapter)
    losses, scores = trained(task, trial, plain)
    task, trial, stage = staged(method, adapter)
    recalled = recalling(stage)
    assert recalled is not stage
    again, others = trained(task, trial, recalled)
    assert again == pytest.approx(losses, abs=1e-6)
    assert others == pytest.approx(scores, abs=1e-6)


def test_the_base_is_computed_once(monkeypatch):
    task, trial, stage = staged()
    base, rows = stage.model.fc.base_layer, []
    compute = base.forward

    def counted(x):
        rows.append(len(x))
        return compute(x)

    base.__class__ = type("Counted", (nn.Linear,), {"forward": lambda self, x: counted(x)})
    trained(task, trial, recalling(stage, batch_size=16))
    assert sum(rows) == 1 + 50 + 20  # one row tells the size


def test_the_layer_is_itself_again_after_an_error():
    _, _, stage = staged()

    def broken(inputs):
        stage.model(inputs["x"])
        raise ArithmeticError("no")

    recalled = recalling(replace(stage, forward=broken))
    batch = next(recalled.train.batches(4))
    with pytest.raises(ArithmeticError):
        recalled.forward(batch.inputs)
    assert "forward" not in vars(stage.model.fc.base_layer)


def test_nothing_is_kept_above_the_budget_or_without_an_adapter(monkeypatch):
    _, _, stage = staged(adapter="none")
    assert recalling(stage) is stage
    _, _, stage = staged()
    monkeypatch.setattr(recall, "BUDGET", 70 * 9 * 4 - 1)
    assert recalling(stage) is stage
    monkeypatch.setattr(recall, "BUDGET", 70 * 9 * 4)
    assert recalling(stage) is not stage


def test_only_the_feature_itself_is_answered():
    """An adapter that rotates its input, as OFT does, gets what the layer gives for that."""

    class Rotating(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer, self.turn = base, nn.Linear(12, 12, bias=False)

        def forward(self, x):
            return self.base_layer(self.turn(x))

    _, _, stage = staged()
    stage.model.fc = Rotating(stage.model.fc.base_layer)
    recalled = recalling(stage)
    rows = torch.arange(5)
    expected = stage.forward(stage.train.inputs(rows))
    assert torch.equal(recalled.forward(recalled.train.inputs(rows)), expected)


def test_a_layer_that_is_trained_is_not_recalled():
    _, _, stage = staged()
    stage.model.fc.base_layer.bias.requires_grad_(True)
    assert recalling(stage) is stage


@pytest.mark.skipif(not keep_freed_memory(), reason="not glibc")
def test_freed_memory_is_kept():
    code = (
        "import resource, sys, torch\n"
        "from trainables.hardware.allocator import keep_freed_memory\n"
        "sys.argv[1] == 'kept' and keep_freed_memory()\n"
        "for _ in range(12): torch.ones(16_000_000)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): torch.ones(16_000_000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", code, mode]))
        for mode in ("kept", "given back")
    }
    assert faults["kept"] * 10 < faults["given back"]
