"""The contract of every task, and what `digits` promises."""

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from examples import SETTINGS

from compression.model import target_layers
from trainables.cache import folder
from trainables.record import COUNTED, Choice
from trainables.tasks import TASKS, Prepared, TensorSplit, observe, predict
from trainables.tasks.digits import NARROWEST

NAMES = tuple(TASKS)  # as imported: other tests register plugins of their own
every_task = pytest.mark.parametrize("task", NAMES, indirect=True)
PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def task(request, tmp_path_factory):
    """A small instance of the task of that name."""
    return TASKS.build(request.param, settings(request.param, tmp_path_factory.mktemp("task")))


def settings(name, folder):
    """Of a small instance, whose files are made in the folder."""
    folder.mkdir(exist_ok=True)
    return SETTINGS[name](folder) if name in SETTINGS else {}


def splits(task, seed=0):
    data = task.prepare(seed)
    return {"train": data.train, "validation": data.validation, "test": task.test(seed)}


def rows(split):
    """One tuple of bytes an example."""

    def example(row):  # by itself: in a batch it may be padded to the others' length
        found = split.inputs(row)
        tensors = [found] if torch.is_tensor(found) else list(found.values())
        return tuple(tensor.numpy().tobytes() for tensor in tensors)

    return [example(row) for row in torch.arange(len(split)).split(1)]


def hashes(split):
    """One hash an example, of its input."""
    return {hashlib.sha256(b"|".join(row)).hexdigest() for row in rows(split)}


def same_split(one, two):
    same = one.digest == two.digest and torch.equal(one.labels, two.labels)
    return same and rows(one) == rows(two)


def outputs(task, model, split, size=64):
    return predict(partial(task.forward, model), split, size)


def scored(task, model, split):
    return task.score(observe(task, partial(task.forward, model), split), split.labels)


def same_model(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@every_task
def test_no_example_is_in_two_splits(task):
    found = [hashes(split) for split in splits(task).values()]
    for i, one in enumerate(found):
        assert one
        for two in found[i + 1 :]:
            assert not one & two


@every_task
def test_preparing_twice_gives_the_same(task):
    one, two = task.prepare(0), task.prepare(0)
    assert one.fingerprint == two.fingerprint
    assert same_model(one.model, two.model)
    assert same_split(one.train, two.train)
    assert same_split(one.validation, two.validation)
    assert same_split(task.test(0), task.test(0))


@every_task
def test_pretraining_leaves_no_trace_in_the_process(task):
    threads, after = torch.get_num_threads(), []
    for _ in ("perhaps pretrained now", "read from the cache"):
        torch.manual_seed(5)
        assert not task.prepare(1).model.training
        after.append(torch.get_rng_state())
    assert torch.equal(*after)
    assert torch.get_num_threads() == threads


@every_task
def test_another_seed_is_another_split(task):
    one, two = task.prepare(0).fingerprint, task.prepare(1).fingerprint
    assert one.data != two.data
    assert hashes(task.test(0)) != hashes(task.test(1))


@every_task
def test_the_architecture_takes_the_dense_weights(task):
    data = task.prepare(0)
    fresh = task.architecture()
    fresh.load_state_dict(data.model.state_dict(), strict=True)
    expected = outputs(task, data.model, data.validation)
    assert torch.equal(outputs(task, fresh, data.validation), expected)


@every_task
def test_workers_never_get_the_test_split(task):
    assert {f.name for f in dataclasses.fields(Prepared)} == {
        "model", "train", "validation", "fingerprint", "calibration",
    }  # fmt: skip
    data, test = task.prepare(0), hashes(task.test(0))
    assert set(vars(data)) == {f.name for f in dataclasses.fields(Prepared)}
    assert data.calibration is None  # rows of train, once they are chosen
    assert not (hashes(data.train) | hashes(data.validation)) & test


@every_task
def test_targets_are_layers_of_the_architecture(task):
    assert target_layers(task.architecture(), task.targets)


@every_task
def test_the_skeleton_has_the_names_shapes_and_types_of_the_architecture(task):
    one, two = (
        {name: (t.shape, t.dtype) for name, t in model.state_dict().items()}
        for model in (task.skeleton(), task.architecture())
    )
    assert one == two


@every_task
def test_the_dense_model_knows_more_than_chance(task):
    data = task.prepare(0)
    scores = scored(task, data.model, data.validation)
    objective = task.objective
    assert objective.loss(scores[task.metric]) < objective.loss(task.chance)
    if objective.is_fraction:
        assert 0.0 <= task.chance < scores[task.metric] <= 1.0
    assert all(type(value) is float and math.isfinite(value) for value in scores.values())


@every_task
def test_who_is_right_adds_up_to_the_metric(task):
    data = task.prepare(0)
    observed = observe(task, partial(task.forward, data.model), data.validation)
    scores = task.score(observed, data.validation.labels)
    right = task.correct(observed, data.validation.labels)
    if right is None:
        assert task.metric not in COUNTED
        return
    assert right.dtype == torch.bool
    assert right.shape == observed["prediction"].shape == (len(data.validation),)
    for name in set(COUNTED) & set(scores):
        assert right.double().mean().item() == scores[name]


@every_task
def test_scores_depend_on_the_rows_and_not_on_their_order(task):
    data = task.prepare(0)
    labels = data.validation.labels
    observed = observe(task, partial(task.forward, data.model), data.validation)
    rows = torch.randint(len(labels), (len(labels),), generator=torch.Generator().manual_seed(0))
    drawn, other = (
        task.score({k: v[at] for k, v in observed.items()}, labels[at])
        for at in (rows, rows.sort().values)
    )
    assert drawn == pytest.approx(other, rel=1e-9)


@every_task
def test_the_loss_can_be_trained_on(task):
    data = task.prepare(0)
    model = task.architecture()
    batch = next(data.train.batches(8, torch.Generator().manual_seed(0)))
    loss = task.training_loss(data.train.labels)(task.forward(model, batch.inputs), batch.labels)
    assert loss.shape == ()
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


FINGERPRINTS = """
import json, sys, time
from trainables.tasks import TASKS
made = {}
for name, args in json.loads(sys.argv[1]):
    start = time.process_time()
    made[f"{name} {args}"] = str(TASKS.build(name, args).prepare(0).fingerprint)
    assert time.process_time() - start <= 30, "pretraining takes too long"
print(json.dumps(made))
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_another_process_without_the_cache_makes_the_same_in_30_seconds(tmp_path):
    tasks = [(name, settings(name, tmp_path / name)) for name in NAMES]
    tasks.append(("digits", {"network": "cnn"}))
    command = [sys.executable, "-c", FINGERPRINTS, json.dumps(tasks)]
    environment = {**os.environ, "PARETUNE_CACHE": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = {f"{n} {args}": str(TASKS.build(n, args).prepare(0).fingerprint) for n, args in tasks}
    assert json.loads(done.stdout) == here
    assert folder() != tmp_path


@pytest.mark.parametrize("network", NARROWEST)
def test_digits_reaches_97_percent_on_test(network):
    task = TASKS.build("digits", {"network": network})
    data, test = task.prepare(0), task.test(0)
    scores = scored(task, data.model, test)
    assert scores["accuracy"] >= 0.97


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_has_its_split_stratified(seed):
    parts = splits(TASKS.build("digits"), seed)
    assert [len(parts[name]) for name in PARTS] == [718, 360, 719]
    shares = [torch.bincount(parts[name].labels) / len(parts[name]) for name in PARTS]
    for share in shares[1:]:
        assert (share - shares[0]).abs().max() < 0.005


def test_digits_networks_share_their_splits():
    mlp, cnn = (TASKS.build("digits", {"network": n}).prepare(0) for n in ("mlp", "cnn"))
    assert mlp.fingerprint.data == cnn.fingerprint.data
    assert mlp.fingerprint.weights != cnn.fingerprint.weights


def test_another_seed_trains_another_digits_network():
    one, two = (TASKS.build("digits").prepare(seed).fingerprint for seed in (0, 1))
    assert one.weights != two.weights


def test_digits_images_are_fractions():
    data = TASKS.build("digits").prepare(0)
    assert data.train.tensors.shape == (718, 1, 8, 8)
    assert data.train.tensors.dtype == torch.float32
    assert data.train.tensors.min() == 0.0
    assert data.train.tensors.max() == 1.0


def test_a_width_of_zero_is_the_narrowest():
    default, named = (TASKS.build("digits", {"width": w}).prepare(0) for w in (0, NARROWEST["mlp"]))
    assert default.fingerprint == named.fingerprint
    assert Choice("digits", TASKS.build("digits").args()) == Choice("digits")


def test_batches_hold_every_example_once():
    split = TensorSplit(torch.arange(10.0), torch.arange(10))
    in_order = list(split.batches(4))
    assert [len(batch.labels) for batch in in_order] == [4, 4, 2]
    assert torch.equal(torch.cat([b.labels for b in in_order]), split.labels)
    shuffled = list(split.batches(4, torch.Generator().manual_seed(0)))
    labels = torch.cat([b.labels for b in shuffled])
    assert torch.equal(labels.sort().values, split.labels)
    assert not torch.equal(labels, split.labels)
    assert all(torch.equal(b.inputs, b.labels.float()) for b in shuffled)


def test_predictions_do_not_depend_on_the_batch():
    task = TASKS.build("digits", {"network": "cnn"})
    data = task.prepare(0)
    whole, pieces = (outputs(task, data.model, data.validation, size) for size in (1024, 7))
    assert torch.allclose(whole, pieces, atol=1e-5)
