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
from study.store.storage import Storage
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

MLP, CNN = Choice("digits", {"width": 64}), Choice("digits", {"network": "cnn"})
# Of 64 x 64: the last layer's 10 outputs are divided by few block sizes.
LAYERS = {MLP: "[13]", CNN: "*"}
BASES = {
    "int1": Choice("int1"),
    "rtn4": Choice("rtn", {"bits": 4}),
    "block_sparse": Choice("block_sparse"),
    "svd": Choice("svd", {"rank": 6}),
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


class Bench:
    """A task, its data, an examiner, and the records so far."""

    def __init__(self, choice, folder):
        self.choice, self.task = choice, TASKS.build(choice.name, choice.args)
        self.data = calibrated(self.task.prepare(0), 64, 0)
        self.storage = Storage.open(str(folder))
        self.examiner = Examiner(self.task, self.task.prepare(0), self.task.test(0))
        self.records = []


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    return {choice: Bench(choice, tmp_path_factory.mktemp("study")) for choice in LAYERS}


def trial(adapter="lora", base="rtn4", optimizer="adam", task=MLP, **more):
    plugin = ADAPTERS.build(adapter)
    rule = LayerRule(
        (BASES.get(base, Choice(base)),),
        adapter=Choice(adapter),
        rank=RANK if plugin.ranked else 0,
        pattern=LAYERS[task],
    )
    bounds = OPTIMIZERS[optimizer].lr
    rate = (bounds.low * bounds.high) ** 0.5 * plugin.lr_factor
    return Trial(
        task,
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
    model = TASKS.build(asked.task.name, asked.task.args).skeleton()
    layers = target_layers(model, [LAYERS[asked.task]])
    methods = [METHODS.build(choice.name, choice.args) for choice in rule.methods]
    adapter = ADAPTERS.build(rule.adapter.name)
    return [*adapter.refusals(layers, rule.rank, methods), *adapter.model_refusals(model)]


def run(benches, asked):
    """The trial's verification; a trial that fails fails the test with its error."""
    bench = benches[asked.task]
    shelf = Shelf(bench.storage)
    attempt = Attempt(bench.task, bench.data, asked, shelf)
    while not attempt.finished:
        attempt.advance()
    assert attempt.outcome.status is Status.COMPLETED, attempt.outcome.error
    record = Record(asked, attempt.outcome, Origin(bench.data.fingerprint))
    file = shelf.files[f"{record.trial_id}.safetensors"]
    logits = shelf.files[f"{record.trial_id}.probe.safetensors"]
    found = bench.examiner.examine(record, file, logits, {})
    assert found.problems == ()
    assert found.file_bytes == record.outcome.size.file_bytes == len(file)
    bench.records.append(record)
    return found


@pytest.mark.parametrize(("adapter", "base"), product(ADAPTED, BASES))
def test_an_adapter_on_a_base(benches, adapter, base):
    asked = [trial(adapter, base), trial(adapter, "none"), trial(adapter, base, task=CNN)]
    asked.append(trial(adapter, "acip"))  # with scores, which one adapter needs
    able = [one for one in asked if not refused(one)]
    if able[0] != asked[0]:  # it says so by name
        assert all(adapter in text for text in refused(asked[0]))
    run(benches, able[0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer(benches, optimizer):
    run(benches, trial(optimizer=optimizer))


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_a_learning_rate_schedule(benches, schedule):
    run(benches, trial(lr_schedule=Choice(schedule)))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss(benches, loss):
    run(benches, trial(losses=(Choice(loss),)))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook(benches, hook):
    plugin, bases = HOOKS.build(hook), [*BASES.values(), Choice("none")]
    for adapter, base in product(["lora", *ADAPTED], bases):
        method = METHODS.build(base.name, base.args)
        if not list(plugin.refusals([method], [ADAPTERS.build(adapter)])):
            asked = replace(trial(adapter, "none"), hooks=(Choice(hook),))
            rule = replace(asked.layers[0], methods=(base,))
            asked = replace(asked, layers=(rule,))
            if not refused(asked):
                run(benches, asked)
                return
    pytest.fail(f"{hook} takes no adapter on any base")


def test_all_of_them_verify_in_a_fresh_process(benches):
    if not benches[MLP].records:  # run alone
        run(benches, trial())
    for choice, bench in benches.items():
        if bench.records:
            found = verify(Job(bench.storage.uri, choice, 0, 1, tuple(bench.records)))
            assert len(found) == len(bench.records)
            assert [v.trial_id for v in found if v.problems] == []
