"""A trial of any adapter goes on from its state as if it had never stopped."""

import dataclasses

import pytest
import torch
from networks import wide_network
from tiny_task import Shelf, TinyTask

from compression.adapters import ADAPTERS
from compression.artifact import deserialize
from compression.kinds import kind_of
from compression.methods import METHODS
from compression.model import target_layers
from trainables import attempt as attempts
from trainables.attempt import Attempt
from trainables.calibration import calibrated
from trainables.checkpoint import State
from trainables.probes import probe, tensor_hash
from trainables.record import Choice, Fingerprint, LayerRule, Status, Trial
from trainables.tasks import Prepared, TensorSplit

REAL = [name for name in ADAPTERS if name != "none"]
BASES = (Choice("rtn", {"bits": 3}), Choice("block_sparse"), Choice("none"), Choice("acip"))
EPOCHS = 4


class WideTask(TinyTask):
    """Noise in 16 classes, as the dense network itself has them."""

    def architecture(self):
        return wide_network(seed=99)

    def prepare(self, seed):
        return Prepared(wide_network(), _split(96, 1), _split(48, 2), Fingerprint("wide", "d"))


def _split(count, seed):
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return TensorSplit(images, wide_network()(images).argmax(-1))


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Steps end at milestones, however slow the machine is."""
    monkeypatch.setattr(attempts, "PATIENCE", 1e9)


def begin(name, cached=True):
    adapter, task = ADAPTERS.build(name), WideTask()
    pattern = "*" if "conv2d" in adapter.kinds else "[58]*"
    layers = target_layers(wide_network(), [pattern])
    layers = {n: layer for n, layer in layers.items() if kind_of(layer) in adapter.kinds}
    rank = 4 if adapter.ranked else 0
    method = next(
        choice
        for choice in BASES
        if not list(adapter.refusals(layers, rank, [METHODS.build(choice.name, choice.args)]))
    )
    rule = LayerRule((method,), adapter=Choice(name), rank=rank, pattern=pattern)
    asked = Trial(
        Choice("wide"),
        (rule,),
        optimizer=Choice("adam"),
        lr=5e-3 * adapter.lr_factor,
        batch_size=32,
        epochs=EPOCHS,
    )
    return Attempt(task, calibrated(task.prepare(0), 24, 0), asked, Shelf(), cached=cached)


def finish(attempt):
    while not attempt.finished:
        attempt.advance()
    assert attempt.outcome.status is Status.COMPLETED, attempt.outcome.error
    return attempt


def timeless(outcome):
    curve = tuple(dataclasses.replace(report, seconds=0.0) for report in outcome.curve)
    return dataclasses.replace(outcome, seconds=None, peak_memory=None, curve=curve)


@pytest.mark.parametrize("name", REAL)
def test_stopped_and_resumed_it_ends_as_one_that_was_not(name):
    straight = finish(begin(name))
    first = begin(name)
    first.advance([EPOCHS // 2])
    assert first.so_far.epochs_done == EPOCHS // 2
    again = begin(name)
    again.restore(State.from_bytes(first.state().to_bytes()))
    finish(again)
    assert timeless(again.outcome) == timeless(straight.outcome)
    file = f"{straight.trial_id}.safetensors"
    assert again.shelf.files[file] == straight.shelf.files[file]


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_what_was_scored_is_what_the_file_holds(name):
    done = finish(begin(name, cached=False))
    data, outcome = done.shelf.files[f"{done.trial_id}.safetensors"], done.outcome
    model = deserialize(data, done.task.architecture())
    assert len(data) == outcome.size.file_bytes
    reports = [r for r in outcome.curve if r.epochs_done == outcome.best_epoch]
    assert all(r.file_bytes in (None, len(data)) for r in reports)
    logits = probe(lambda inputs: done.task.forward(model, inputs), done.data.validation)
    assert tensor_hash(logits) == outcome.probe
    assert any(r.settled for r in outcome.curve)
    settled = {r.epochs_done for r in outcome.curve if r.settled}
    assert outcome.best_epoch in settled
