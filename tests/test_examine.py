"""An artifact held against its record: what agrees, what does not, and who is right where."""

import dataclasses
from functools import partial

import pytest
import safetensors.torch
import torch
from tiny_task import Shelf, TinyTask, make_trial

from compression.artifact import deserialize
from compression.export import EXPORTERS
from compression.footprint import resident_bytes
from trainables.attempt import Attempt
from trainables.examine import Examiner
from trainables.probes import probe, tensor_hash
from trainables.record import (
    Direction,
    Objective,
    Origin,
    Paired,
    Record,
    Verification,
    from_json,
    to_json,
)
from trainables.scoring import metrics
from trainables.tasks import TensorSplit, observe

TASK = TinyTask()
DATA = TASK.prepare(0)


def run(task=TASK, **settings):
    """A finished trial: record, artifact, probe file."""
    shelf, trial = Shelf(), make_trial(**settings)
    attempt = Attempt(task, DATA, trial, shelf)
    while not attempt.finished:
        attempt.advance()
    record = Record(trial, attempt.outcome, Origin(DATA.fingerprint))
    artifact, probe_file = shelf.files.values()
    return record, artifact, probe_file


GOOD = run(epochs=2)
DENSE = run(method="none", adapter="none", epochs=0)


def loaded(artifact):
    return deserialize(artifact, TASK.architecture())


def examiner():
    return Examiner(TASK, DATA, TASK.test(0))


def examine(record=None, artifact=None, probe_file=None):
    record = record or GOOD[0]
    artifact, probe_file = artifact or GOOD[1], probe_file or GOOD[2]
    return examiner().examine(record, artifact, probe_file, {}, at="now")


def edited(**changes):
    """The good record with another outcome."""
    return dataclasses.replace(GOOD[0], outcome=dataclasses.replace(GOOD[0].outcome, **changes))


def probe_bytes(logits):
    return safetensors.torch.save({"logits": logits})


def test_it_says_which_runtime_would_keep_how_many_layers_packed():
    found, dense = examine().runs_in, examine(*DENSE).runs_in
    assert found.keys() == dense.keys() == set(EXPORTERS)
    for name, layers in {n: EXPORTERS.build(n).layers(loaded(GOOD[1])) for n in EXPORTERS}.items():
        packed = [form for form in layers.values() if form != "dense"]
        assert found[name] == f"{len(packed)} of {len(layers)} layers packed"
        assert dense[name].startswith("0 of ")


def test_what_agrees_is_verified():
    found = examine()
    assert found.verified
    assert found.logits_agreement == "bitwise"
    assert found.trial_id == GOOD[0].trial_id
    assert found.sha256 == GOOD[0].outcome.sha256
    assert found.file_bytes == GOOD[0].outcome.size.file_bytes
    assert found.at == "now"


def test_the_test_metric_is_the_loaded_model_s():
    test = TASK.test(0)
    model = deserialize(GOOD[1], TASK.architecture())
    scores = TASK.score(observe(TASK, model, test), test.labels)
    assert scores.items() <= examine().metrics.items()


@pytest.mark.parametrize("at", [0, 9, 200, len(GOOD[1]) // 2, len(GOOD[1]) - 1])
def test_a_flipped_byte_is_a_problem_and_the_file_is_not_scored(at):
    changed = bytearray(GOOD[1])
    changed[at] ^= 1
    found = examine(artifact=bytes(changed))
    assert not found.verified
    assert any("sha256" in problem for problem in found.problems)
    assert found.metrics == {}
    assert found.logits_agreement == "none"


@pytest.mark.parametrize("length", [1, 7, 100, len(GOOD[1]) - 1])
def test_a_cut_file_is_a_problem(length):
    found = examine(artifact=GOOD[1][:length])
    assert not found.verified
    assert found.metrics == {}


def test_the_artifact_of_another_trial_is_a_problem():
    other, artifact, probe_file = run(epochs=2, seed=1)
    found = examine(other, GOOD[1], probe_file)
    assert not found.verified
    assert any("sha256" in problem for problem in found.problems)
    assert any("logits" in problem for problem in found.problems)
    found = examine(artifact=DENSE[1])
    assert any("bytes" in problem for problem in found.problems)


def test_an_edited_metric_is_a_problem():
    metrics = {"val": {**GOOD[0].outcome.metrics["val"], "accuracy": 0.999}}
    found = examine(edited(metrics=metrics))
    assert [p for p in found.problems if "val/accuracy" in p and "0.999" in p]
    assert len(found.problems) == 1


def test_another_probe_in_the_record_is_a_problem():
    found = examine(edited(probe="0" * 64))
    assert found.logits_agreement == "none"
    assert len(found.problems) == 1


@pytest.mark.parametrize("file", [b"junk", probe_bytes(torch.zeros(2, 2))], ids=["junk", "other"])
def test_a_probe_file_that_is_not_the_record_s_proves_nothing(file):
    assert examine(probe_file=file).verified  # the record's own hash agrees
    found = examine(edited(probe="0" * 64), probe_file=file)
    assert found.logits_agreement == "none"
    assert not found.verified


@pytest.mark.parametrize(
    ("shift", "agreement"), [(1e-7, "1e-5"), (1e-2, "none")], ids=["rounding", "other"]
)
def test_logits_may_differ_by_rounding_only(shift, agreement):
    logits = safetensors.torch.load(GOOD[2])["logits"] + shift
    record = edited(probe=tensor_hash(logits))
    found = examine(record, probe_file=probe_bytes(logits))
    assert found.logits_agreement == agreement
    assert found.verified == (agreement != "none")


def test_a_model_of_another_architecture_is_a_problem():
    class Other(TinyTask):
        def architecture(self):
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))

    found = Examiner(Other(), DATA, TASK.test(0)).examine(*GOOD, {})
    assert not found.verified
    assert found.metrics == {}


def test_pairs_are_counted_over_the_same_examples():
    ours = examiner()
    ours.examine(*DENSE, {})
    found = ours.examine(*GOOD, {"dense": DENSE[0].trial_id, "unseen": "x"})
    pair = found.paired["dense"]
    assert list(found.paired) == ["dense"]
    assert pair.n == 48
    assert pair.drop == pytest.approx(1.0 - found.metrics["accuracy"])
    assert pair.only_model == 0  # the dense model labelled the data
    assert pair.flips == pair.only_reference
    before = found.on_validation["dense"]
    assert list(found.on_validation) == ["dense"]
    assert before.n == len(DATA.validation)
    assert before.drop == pytest.approx(1.0 - GOOD[0].outcome.metrics["val"]["accuracy"])


class Balanced(TinyTask):
    """Tiny by balanced accuracy."""

    @property
    def objective(self):
        return Objective("balanced_accuracy", unit="fraction")

    def score(self, observed, labels):
        return metrics.classification_scores(observed, labels)


class Surprise(TinyTask):
    """Tiny without right and wrong, by exp of the mean loss."""

    @property
    def objective(self):
        return Objective("perplexity", Direction.MINIMIZE)

    @property
    def chance(self):
        return 7.0

    def observe(self, outputs, labels):
        return {"loss": super().observe(outputs, labels)["loss"].double()}

    def score(self, observed, labels):
        return {"perplexity": observed["loss"].mean().exp().item()}

    def correct(self, observed, labels):
        return None


@pytest.mark.parametrize("kind", [Balanced, Surprise])
def test_other_metrics_have_drops_with_bounds(kind):
    task = kind()
    (dense, *dense_files), (good, *good_files) = (
        run(task, **s) for s in ({"method": "none", "adapter": "none", "epochs": 0}, {"epochs": 2})
    )
    ours = Examiner(task, DATA, task.test(0))
    first = ours.examine(dense, *dense_files, {"dense": dense.trial_id})
    assert first.verified
    assert first.drops == first.paired == {}
    found = ours.examine(good, *good_files, {"dense": dense.trial_id})
    assert found.verified
    worse = task.objective.loss(found.metrics[task.metric])
    worse -= task.objective.loss(first.metrics[task.metric])
    drop = found.drops["dense"]
    assert drop.absolute.value == pytest.approx(worse)
    assert drop.absolute.low < worse < drop.absolute.high
    assert (drop.metric, drop.n) == (task.metric, 48)
    assert (drop.relative is None) == task.objective.is_fraction
    assert list(found.paired) == ([] if kind is Surprise else ["dense"])
    assert from_json(Verification, to_json(found)) == found


def test_accuracy_needs_no_bootstrap():
    ours = examiner()
    ours.examine(*DENSE, {})
    assert ours.examine(*GOOD, {"dense": DENSE[0].trial_id}).drops == {}


def test_of_groups_accuracy_has_drops_beside_its_pairs():
    test = TASK.test(0)
    alike = TensorSplit(test.tensors, test.labels, torch.arange(48) // 2)
    ours = Examiner(TASK, DATA, alike)
    ours.examine(*DENSE, {})
    found = ours.examine(*GOOD, {"dense": DENSE[0].trial_id})
    pair, drop = found.paired["dense"], found.drops["dense"]
    assert (drop.metric, drop.n, drop.groups) == ("accuracy", 48, 24)
    assert drop.absolute.value == pytest.approx(pair.drop)
    assert pair.flips > 0
    assert from_json(Verification, to_json(found)) == found


def on_the_edge(model, images):
    """An image between two of these whose two largest logits are nearly equal."""
    classes = model(images).argmax(-1)
    near, far = images[0], images[(classes != classes[0]).nonzero()[0, 0]]
    for _ in range(60):
        middle = (near + far) / 2
        found = model(middle[None]).topk(2)
        if found.values[0, 0] - found.values[0, 1] < 1e-5:
            return middle
        near, far = (middle, far) if found.indices[0, 0] == classes[0] else (near, middle)
    raise ArithmeticError("no edge")


@pytest.mark.parametrize(
    ("tie", "examples", "agreement", "agrees"),
    [
        (True, 1, "1e-5", True),
        (True, 2, "1e-5", False),
        (True, 1, "bitwise", False),
        (False, 1, "1e-5", False),
    ],
)
@pytest.mark.parametrize("kind", [TinyTask, Balanced])
@torch.no_grad()
def test_accuracy_may_differ_by_near_ties_where_logits_do(kind, tie, examples, agreement, agrees):
    task, (record, artifact, _) = kind(), GOOD
    model = deserialize(artifact, task.architecture())
    images = DATA.validation.tensors.clone()
    if tie:
        images[5] = on_the_edge(model, images)
    labels = model(images).argmax(-1)
    validation = TensorSplit(images, labels)
    logits = probe(partial(task.forward, model), validation)
    logits = logits + 1e-7 if agreement == "1e-5" else logits
    guesses, wrong = labels.clone(), slice(5, 5 + examples)  # what the trial is said to have seen
    guesses[wrong] = model(images).topk(2).indices[wrong, 1]
    observed = {"prediction": guesses, "loss": torch.zeros(48)}
    outcome = dataclasses.replace(
        record.outcome,
        metrics={"val": dict(task.score(observed, labels))},
        probe=tensor_hash(logits),
    )
    data = dataclasses.replace(DATA, validation=validation)
    found = Examiner(task, data, task.test(0)).examine(
        dataclasses.replace(record, outcome=outcome), artifact, probe_bytes(logits), {}
    )
    assert found.logits_agreement == agreement
    assert found.verified is agrees
    assert agrees or "val/" in found.problems[0]


def test_a_continuous_metric_may_differ_by_rounding_where_logits_do():
    task = Surprise()
    record, artifact, file = run(task, epochs=0, adapter="none")
    then = record.outcome.metrics["val"]["perplexity"]
    logits = safetensors.torch.load(file)["logits"] + 1e-7
    for shift, agrees in ((1e-6, True), (1e-3, False)):
        outcome = dataclasses.replace(
            record.outcome,
            metrics={"val": {"perplexity": then * (1 + shift)}},
            probe=tensor_hash(logits),
        )
        other = dataclasses.replace(record, outcome=outcome)
        found = Examiner(task, DATA, task.test(0)).examine(other, artifact, probe_bytes(logits), {})
        assert found.logits_agreement == "1e-5"
        assert found.verified is agrees


def test_pairs_are_right_by_hand():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    reference = torch.tensor([0, 1, 2, 0, 0, 0])
    model = torch.tensor([0, 1, 0, 1, 1, 1])
    split = TensorSplit(torch.zeros(6, 1), labels)
    observed = [{"prediction": guesses} for guesses in (reference, model)]
    # right: reference on 0 1 2 3, model on 0 1 4; other answers on 2 3 4 5
    expected = Paired(n=6, only_reference=2, only_model=1, flips=4)
    assert Examiner(TASK, DATA, split)._paired(*observed) == expected
    assert expected.drop == pytest.approx(4 / 6 - 3 / 6)


def test_resident_bytes_are_those_of_packed_weights():
    packed = deserialize(GOOD[1], TASK.architecture(), keep_packed=True)
    dense = deserialize(GOOD[1], TASK.architecture())
    assert examine().resident_bytes == resident_bytes(packed) < resident_bytes(dense)
