"""One trial of every adapter on every kind of base, of every optimizer, schedule, loss and hook.

Each is run as a worker runs it, saved, loaded into a fresh architecture and verified; then all of
them once more in a fresh process.
"""

from dataclasses import replace
from itertools import product

import pytest

from compression.adapters import ADAPTERS
from compression.methods import METHODS
from compression.rules import target_layers
from study.storage import Storage
from study.verify import Job, verify
from trainables.attempt import Attempt
from trainables.calibration import calibrated
from trainables.examine import Examiner
from trainables.hooks import HOOKS
from trainables.losses import LOSSES
from trainables.lr_schedules import LR_SCHEDULES
from trainables.optimizers import OPTIMIZERS
from trainables.record import Choice, LayerRule, Origin, Record, Status, Trial
from trainables.tasks import TASKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TASK = Choice("digits", {"width": 64})
LAYERS = "[13]"  # of 64 x 64: the last layer's 10 outputs are divided by few block sizes
BASES = {
    "int1": Choice("int1"),
    "rtn4": Choice("rtn", {"bits": 4}),
    "block_sparse": Choice("block_sparse"),
    "svd": Choice("svd", {"rank": 8}),
}
RANK = 4
EPOCHS = 2
ADAPTED = [name for name in ADAPTERS if name != "none"]


class Shelf:
    """Files in a storage, and what of them belongs together."""

    def __init__(self, storage):
        self.storage = storage.sub("artifacts")
        self.files = {}

    def write_bytes(self, name, data):
        self.storage.write_bytes(name, data)
        self.files[name] = data


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The task, its data, an examiner, and the records so far."""
    task = TASKS.build(TASK.name, TASK.args)
    data = calibrated(task.prepare(0), 64, 0)
    storage = Storage.open(str(tmp_path_factory.mktemp("study")))
    return task, data, storage, Examiner(task, task.prepare(0), task.test(0)), []


def trial(adapter="lora", base="rtn4", optimizer="adam", factor=None, **more):
    plugin = ADAPTERS.build(adapter)
    rule = LayerRule(
        (BASES.get(base, Choice(base)),),
        adapter=Choice(adapter),
        rank=RANK if plugin.ranked else 0,
        pattern=LAYERS,
    )
    bounds = OPTIMIZERS[optimizer].lr
    rate = (bounds.low * bounds.high) ** 0.5 * plugin.lr_factor
    return Trial(
        TASK,
        (rule,),
        optimizer=Choice(optimizer),
        lr=rate,
        batch_size=64,
        epochs=EPOCHS,
        **more,
    )


def refused(asked):
    """Why the adapter cannot sit on this base, by its own words."""
    (rule,) = asked.layers
    layers = target_layers(TASKS.build(TASK.name, TASK.args).skeleton(), [LAYERS])
    methods = [METHODS.build(choice.name, choice.args) for choice in rule.methods]
    return list(ADAPTERS.build(rule.adapter.name).refusals(layers, rule.rank, methods))


def run(bench, asked):
    """The trial's verification; a trial that fails fails the test with its error."""
    task, data, storage, examiner, records = bench
    shelf = Shelf(storage)
    attempt = Attempt(task, data, asked, shelf)
    while not attempt.finished:
        attempt.advance()
    assert attempt.outcome.status is Status.COMPLETED, attempt.outcome.error
    record = Record(asked, attempt.outcome, Origin(data.fingerprint))
    name = f"{record.trial_id}.safetensors"
    logits = shelf.files[f"{record.trial_id}.probe.safetensors"]
    found = examiner.examine(record, shelf.files[name], logits, {})
    assert found.problems == ()
    assert found.file_bytes == record.outcome.size.file_bytes == len(shelf.files[name])
    records.append(record)
    return found


@pytest.mark.parametrize(("adapter", "base"), product(ADAPTED, BASES))
def test_an_adapter_on_a_base(bench, adapter, base):
    asked = trial(adapter, base)
    if why := refused(asked):
        assert all(adapter in text for text in why)
        asked = trial(adapter, "none")  # it takes the dense layer then
        assert not refused(asked)
    run(bench, asked)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer(bench, optimizer):
    run(bench, trial(optimizer=optimizer))


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_a_learning_rate_schedule(bench, schedule):
    run(bench, trial(lr_schedule=Choice(schedule)))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss(bench, loss):
    run(bench, trial(losses=(Choice(loss),)))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook(bench, hook):
    plugin, bases = HOOKS.build(hook), [*BASES.values(), Choice("none")]
    for adapter, base in product(["lora", *ADAPTED], bases):
        method = METHODS.build(base.name, base.args)
        if not list(plugin.refusals([method], [ADAPTERS.build(adapter)])):
            asked = replace(trial(adapter, "none"), hooks=(Choice(hook),))
            rule = replace(asked.layers[0], methods=(base,))
            asked = replace(asked, layers=(rule,))
            if not refused(asked):
                run(bench, asked)
                return
    pytest.fail(f"{hook} takes no adapter on any base")


def test_all_of_them_verify_in_a_fresh_process(bench):
    _, _, storage, _, records = bench
    if not records:  # run alone
        run(bench, trial())
    found = verify(Job(storage.uri, TASK, 0, 1, tuple(records)))
    assert len(found) == len(records)
    assert [v.trial_id for v in found if v.problems] == []
