"""One trial run without Ray: its reports, what is kept of it, how it fails and goes on."""

import dataclasses
import hashlib
import math

import pytest
import safetensors.torch
import torch
from networks import methods_and_inits
from tiny_task import Poisoned, Shelf, TinyTask, make_trial

from compression.artifact import deserialize
from study.store.storage import StorageError
from trainables import attempt as attempts
from trainables.attempt import Attempt
from trainables.calibration import calibrated
from trainables.checkpoint import CheckpointError, State
from trainables.probes import probe, tensor_hash
from trainables.record import Choice, LayerRule, Status, from_json, to_json
from trainables.shelf import ShelfError
from trainables.tasks import observe


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Steps end at milestones, however slow the machine is."""
    monkeypatch.setattr(attempts, "PATIENCE", 1e9)


def begin(task=None, shelf=None, **settings):
    task = task or TinyTask()
    data = calibrated(task.prepare(0), 24, 0)
    return Attempt(task, data, make_trial(**settings), shelf or Shelf())


def finish(attempt, milestones=()):
    while not attempt.finished:
        attempt.advance(milestones)
    return attempt.outcome


def timeless(outcome):
    """The outcome without what the clock says."""
    curve = tuple(dataclasses.replace(report, seconds=0.0) for report in outcome.curve)
    return dataclasses.replace(outcome, seconds=None, peak_memory=None, curve=curve)


class Scripted(TinyTask):
    """Its validation accuracy is as scripted, report by report."""

    def __init__(self, accuracies):
        object.__setattr__(self, "accuracies", list(accuracies))

    def score(self, observed, labels):
        accuracy = self.accuracies.pop(0)
        return {**super().score(observed, labels), "accuracy": accuracy}


@pytest.mark.parametrize("rest", ["none", "cast"])
@pytest.mark.parametrize(("method", "init"), methods_and_inits())
def test_trials_leave_the_dense_model_as_it_is(method, init, rest):
    attempt = begin(init=init, method=method, rest=Choice(rest))
    before = {k: v.clone() for k, v in attempt.data.model.state_dict().items()}
    assert finish(attempt).status is Status.COMPLETED
    after = attempt.data.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_first_report_is_of_the_compressed_model_before_any_training():
    attempt = begin()
    reports = attempt.advance(milestones=(1,))
    assert [r.epochs_done for r in reports] == [0, 1]
    assert reports[0].train_loss is None
    assert math.isfinite(reports[1].train_loss)
    untrained = finish(begin(epochs=0))
    assert untrained.curve[0].metrics == reports[0].metrics
    seconds = [r.seconds for r in reports]
    assert seconds == sorted(seconds)


def test_steps_end_at_milestones_and_every_epoch_is_reported():
    attempt = begin(epochs=5)
    steps = []
    while not attempt.finished:
        steps.append([r.epochs_done for r in attempt.advance(milestones=(2, 3))])
    assert steps == [[0, 1, 2], [3], [4, 5]]
    assert [r.epochs_done for r in attempt.outcome.curve] == [0, 1, 2, 3, 4, 5]


def test_a_slow_training_reports_every_epoch(monkeypatch):
    monkeypatch.setattr(attempts, "PATIENCE", 0.0)
    attempt = begin(epochs=3)
    steps = []
    while not attempt.finished:
        steps.append([r.epochs_done for r in attempt.advance()])
    assert steps == [[0, 1], [2], [3]]


def test_a_trial_may_end_at_a_milestone_and_has_a_file_there():
    shelf = Shelf()
    attempt = begin(shelf=shelf, epochs=5)
    attempt.advance(milestones=(2,))
    outcome = attempt.outcome
    assert (outcome.status, outcome.epochs_done) == (Status.STOPPED, 2)
    data = shelf.files[f"{attempt.trial_id}.safetensors"]
    assert outcome.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("method", ["none", "int1", "rtn", "svd"])
@pytest.mark.parametrize("adapter", ["none", "lora", "dora"])
def test_the_file_on_the_shelf_scores_what_the_record_says(method, adapter):
    shelf, epochs = Shelf(), 0 if adapter == "none" else 3
    attempt = begin(shelf=shelf, method=method, adapter=adapter, epochs=epochs, lr=0.03)
    outcome = finish(attempt)
    data = shelf.files[f"{attempt.trial_id}.safetensors"]
    assert outcome.status is Status.COMPLETED
    assert hashlib.sha256(data).hexdigest() == outcome.sha256
    assert len(data) == outcome.size.file_bytes
    model = deserialize(data, attempt.task.architecture())
    validation = attempt.data.validation
    assert (
        attempt.task.score(observe(attempt.task, model, validation), validation.labels)
        == (outcome.metrics["val"])
    )
    logits = probe(model, validation)
    recorded = safetensors.torch.load(shelf.files[f"{attempt.trial_id}.probe.safetensors"])
    assert torch.equal(recorded["logits"], logits)
    assert tensor_hash(logits) == outcome.probe


def test_an_adapter_stored_in_half_precision_is_scored_as_stored():
    shelf = Shelf()
    rule = LayerRule((Choice("int1"),), adapter=Choice("lora", {"dtype": "float16"}), rank=2)
    attempt = begin(shelf=shelf, layers=(rule,), lr=0.03)
    outcome = finish(attempt, milestones=(1, 2))
    model = deserialize(shelf.files[f"{attempt.trial_id}.safetensors"], TinyTask().architecture())
    validation = attempt.data.validation
    scored = TinyTask().score(observe(TinyTask(), model, validation), validation.labels)
    assert scored == outcome.metrics["val"]


def test_looking_at_a_trial_does_not_change_it():
    often, once = begin(), begin()
    assert timeless(finish(often, milestones=(1, 2, 3))) == timeless(finish(once))


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.2], 1),
        ([0.5, 0.1, 0.1, 0.1, 0.1], 0),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 4),
    ],
)
def test_the_best_epoch_by_validation_is_kept(accuracies, best):
    shelf = Shelf()
    attempt = begin(Scripted(accuracies), shelf)
    outcome = finish(attempt)
    assert outcome.best_epoch == best
    assert outcome.metrics["val"] == outcome.curve[best].metrics
    model = deserialize(shelf.files[f"{attempt.trial_id}.safetensors"], TinyTask().architecture())
    stopped_there = begin(epochs=4)
    if best:
        stopped_there.advance(milestones=(best,))
    else:
        stopped_there = begin(epochs=0)
        stopped_there.advance()
    logits = probe(stopped_there.stage.forward, attempt.data.validation)
    assert torch.equal(probe(model, attempt.data.validation), logits)


def test_among_equal_accuracies_the_lower_loss_is_better():
    outcome = finish(begin(Scripted([0.5] * 5)))
    losses = [report.metrics["loss"] for report in outcome.curve]
    assert outcome.best_epoch == losses.index(min(losses))


def test_a_file_that_did_not_change_is_not_written_again():
    shelf = Shelf()
    finish(begin(Scripted([0.5, 0.4, 0.3, 0.2, 0.1]), shelf), milestones=(1, 2, 3))
    assert len(shelf.writes) == 2


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_trial_without_training_is_complete_after_one_report(adapter):
    attempt = begin(adapter=adapter, epochs=0)
    assert len(attempt.advance()) == 1
    assert attempt.finished
    outcome = attempt.outcome
    assert (outcome.status, outcome.epochs_done, outcome.best_epoch) == (Status.COMPLETED, 0, 0)
    assert outcome.sha256


def test_nothing_done_is_the_dense_model_to_the_byte():
    outcome = finish(begin(method="none", adapter="none", epochs=0))
    assert outcome.size.ratio == 1.0
    assert outcome.size.layer_ratio == 1.0
    assert outcome.size.nominal_ratio == 1.0
    assert outcome.metrics["val"]["accuracy"] == 1.0


def test_the_same_trial_twice_is_the_same_outcome_up_to_the_clock():
    one, two = begin(optimizer="muon"), begin(optimizer="muon")
    assert timeless(finish(one)) == timeless(finish(two))
    assert one.trial_id == two.trial_id
    assert one.shelf.files == two.shelf.files


def test_an_outcome_survives_json():
    outcome = finish(begin())
    assert from_json(type(outcome), to_json(outcome)) == outcome


class Broken(TinyTask):
    """Its loss raises."""

    def loss(self, outputs, labels):
        raise ValueError("no loss today")


class NanMetric(TinyTask):
    """Its validation loss is NaN from the second report on."""

    def score(self, observed, labels):
        scores = super().score(observed, labels)
        self.__dict__["seen"] = self.__dict__.get("seen", 0) + 1
        return scores if self.seen == 1 else {**scores, "loss": float("nan")}


@pytest.mark.parametrize(
    ("task", "settings", "cause", "reports"),
    [
        (Broken(), {}, "ValueError: no loss today (test_attempt.py:", 1),
        (Poisoned(), {}, "NonFiniteLoss: the loss is nan at step ", 1),
        (NanMetric(), {}, "NonFiniteMetric: val/loss is nan after epoch 1 (attempt.py:", 1),
        (TinyTask(), {"method": "no_such"}, "UnknownName: unknown method 'no_such'; ", 0),
        (TinyTask(), {"optimizer": "no_such"}, "UnknownName: unknown optimizer 'no_such'; ", 0),
        (TinyTask(), {"lr": 1e30, "optimizer": "sgd"}, "NonFinite", 1),
    ],
    ids=["raises", "NaN loss", "NaN metric", "method", "optimizer", "diverges"],
)
def test_an_error_becomes_the_outcome_with_its_cause(task, settings, cause, reports):
    shelf = Shelf()
    attempt = begin(task, shelf, **settings)
    assert len(attempt.advance()) >= reports
    assert attempt.finished
    assert attempt.outcome.status is Status.FAILED
    assert attempt.outcome.error.startswith(cause)
    assert attempt.outcome.metrics == {}
    assert len(attempt.outcome.curve) >= reports
    assert not shelf.files


def test_an_error_of_the_shelf_is_an_outcome_too():
    class Full(Shelf):
        def write_bytes(self, name, data):
            raise OSError("no space left")

    outcome = finish(begin(shelf=Full()))
    assert outcome.status is Status.FAILED
    assert outcome.error.startswith("OSError: no space left")


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_restored_trial_ends_as_an_undisturbed_one(at, optimizer):
    shelf = Shelf()
    straight = begin(shelf=shelf, optimizer=optimizer, epochs=5)
    if at:
        straight.advance(milestones=(at,))
    saved = straight.state().to_bytes()
    expected = finish(straight)

    resumed = begin(optimizer=optimizer, epochs=5)
    resumed.restore(State.from_bytes(saved))
    assert timeless(finish(resumed)) == timeless(expected)
    assert resumed.shelf.files == shelf.files


def test_a_restored_trial_keeps_its_best_epoch():
    script = [0.1, 0.9, 0.3, 0.2, 0.2]
    straight = begin(Scripted(script))
    straight.advance(milestones=(2,))
    resumed = begin(Scripted(script[3:]))
    resumed.restore(straight.state())
    outcome = finish(resumed)
    assert outcome.best_epoch == 1
    assert resumed.shelf.files == finish_and_files(straight)


def finish_and_files(attempt):
    finish(attempt)
    return attempt.shelf.files


def test_a_trial_without_training_can_be_restored():
    straight = begin(epochs=0)
    expected = finish(straight)
    resumed = begin(epochs=0)
    resumed.restore(State.from_bytes(straight.state().to_bytes()))
    assert timeless(finish(resumed)) == timeless(expected)


def test_a_trial_not_begun_says_so():
    attempt = begin()
    assert attempt.outcome.status is Status.FAILED
    assert not attempt.finished


def test_going_on_with_another_trial_s_state_is_refused():
    attempt = begin(epochs=3)
    attempt.advance(milestones=(1,))
    with pytest.raises(CheckpointError, match=f"is of trial {attempt.trial_id}"):
        begin(epochs=3, method="rtn").restore(attempt.state())


def test_going_on_with_another_base_is_refused(monkeypatch):
    attempt = begin(epochs=3)
    attempt.advance(milestones=(1,))
    state, other = attempt.state(), begin(epochs=3)
    with monkeypatch.context() as patched:
        patched.setattr(attempts, "base_hash", lambda model: "another")
        with pytest.raises(CheckpointError, match="not the one that was trained on"):
            other.restore(state)
    same = begin(epochs=3)
    same.restore(state)
    assert finish(same).status is Status.COMPLETED


class Refusing:
    """A shelf on a full disk."""

    def write_bytes(self, name, data):
        raise StorageError(f"cannot write {name}: No space left on device")


def test_a_shelf_that_refuses_is_no_failure_of_the_trial():
    attempt = begin(shelf=Refusing(), epochs=2)
    with pytest.raises(ShelfError, match="No space left"):
        attempt.advance()
    assert "No space left" not in attempt.outcome.error
