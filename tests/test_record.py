"""The core types: each checks itself, and derives what it does not store."""

import dataclasses

import log_helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_strategies import finite, sizes

from trainables.record import (
    NONE,
    Bounds,
    Choice,
    Direction,
    Drop,
    Fingerprint,
    LayerRule,
    Objective,
    Origin,
    Outcome,
    Paired,
    Parts,
    Record,
    RecordError,
    Report,
    Status,
    Verification,
)

FINGERPRINT = Fingerprint("weights", "data")
RULE = LayerRule((Choice("int1"),), Choice("residual"), Choice("lora"), rank=4)


def trial(**changes):
    return dataclasses.replace(log_helpers.make_trial(), **changes)


def size(**changes):
    return dataclasses.replace(log_helpers.SIZE, **changes)


def outcome(**changes):
    return Outcome(
        **{"status": Status.COMPLETED, "metrics": {"val": {"a": 1.0}}, "size": size()} | changes
    )


def verification(**changes):
    return Verification(
        **{"trial_id": "t", "sha256": "s", "file_bytes": 1, "metrics": {}} | changes
    )


NAN = float("nan")
BROKEN = {
    "Choice.name": lambda: Choice(""),
    "LayerRule.methods": lambda: LayerRule(()),
    "LayerRule.rank: must be an int": lambda: LayerRule((NONE,), rank=-1),
    "LayerRule.rank: must be an int >= 0": lambda: dataclasses.replace(RULE, rank=2.0),
    "LayerRule.rank: must be 0": lambda: LayerRule((NONE,), rank=1),
    "LayerRule.alpha: must be absent": lambda: LayerRule((NONE,), alpha=1.0),
    "LayerRule.alpha: must be above 0": lambda: dataclasses.replace(RULE, alpha=0.0),
    "LayerRule.alpha: expected": lambda: dataclasses.replace(RULE, alpha="8"),
    "LayerRule.init": lambda: LayerRule((NONE,), Choice("pissa")),
    "Trial.layers": lambda: trial(layers=()),
    "Trial.epochs": lambda: trial(epochs=-1),
    "Trial.epochs: must": lambda: trial(epochs=True),
    "Trial.batch_size: must be an int": lambda: trial(batch_size=1.0),
    "Trial.batch_size: must be above 0": lambda: trial(batch_size=0),
    "Trial.seed": lambda: trial(seed=-1),
    "Trial.seed: must": lambda: trial(seed=np.int64(1)),
    "Trial.optimizer": lambda: trial(optimizer=NONE),
    "Trial.lr: must be above 0": lambda: trial(lr=0.0),
    "Trial.lr: nan": lambda: trial(lr=NAN),
    "Trial.lr: expected": lambda: trial(lr="fast"),
    "Trial.lr: expected a number": lambda: trial(lr=np.float64(0.1)),
    "Parts.base": lambda: Parts(base=-1),
    "Parts.header": lambda: Parts(header=1.0),
    "Size.model": lambda: size(model=Parts()),
    "Size.dense_model": lambda: size(dense_model=Parts()),
    "Report.epochs_done": lambda: Report(-1, {}),
    "Report.metrics.accuracy": lambda: Report(0, {"accuracy": NAN}),
    "Report.metrics.accuracy: expected": lambda: Report(0, {"accuracy": np.float64(0.5)}),
    "Report.train_loss": lambda: Report(0, {}, float("inf")),
    "Outcome.metrics.val: needed": lambda: outcome(metrics={}),
    "Outcome.metrics.val: needed when stopped": lambda: outcome(status=Status.STOPPED, metrics={}),
    "Outcome.metrics.val.a": lambda: outcome(metrics={"val": {"a": NAN}}),
    "Outcome.metrics.train.a": lambda: outcome(metrics={"val": {"a": 1.0}, "train": {"a": NAN}}),
    "Outcome.size": lambda: outcome(size=None),
    "Outcome.error: must be absent": lambda: outcome(error="no"),
    "Outcome.error: a failed trial": lambda: Outcome(Status.FAILED),
    "Record.schema": lambda: Record(trial(), outcome(), Origin(FINGERPRINT), schema=2),
    "Record.schema: got 0": lambda: Record(trial(), outcome(), Origin(FINGERPRINT), schema=0),
    "Paired.n": lambda: Paired(0, 0, 0),
    "Paired: more": lambda: Paired(3, 2, 2),
    "Bounds.value": lambda: Bounds(NAN, 0.0, 1.0),
    "Bounds.high": lambda: Bounds(0.0, 0.0, float("inf")),
    "Bounds: low is above high": lambda: Bounds(0.0, 1.0, 0.5),
    "Drop.n": lambda: Drop("f1", 0, Bounds(0.0, 0.0, 0.0)),
    "Drop.groups: expected 1 to 4": lambda: Drop("f1", 4, Bounds(0.0, 0.0, 0.0), groups=5),
    "Drop.groups": lambda: Drop("f1", 4, Bounds(0.0, 0.0, 0.0), groups=0),
    "Verification.metrics.accuracy": lambda: verification(metrics={"accuracy": NAN}),
    "Verification.logits_agreement": lambda: verification(logits_agreement="roughly"),
}  # fmt: skip


@pytest.mark.parametrize("where", BROKEN)
def test_each_type_refuses_what_breaks_its_rule(where):
    with pytest.raises(RecordError) as caught:
        BROKEN[where]()
    assert str(caught.value).startswith(where)


@given(sizes)
def test_ratios_follow_from_the_bytes(size):
    assert size.file_bytes == size.stored_bytes + size.model.header == size.model.total
    assert size.ratio == size.dense_model.total / size.model.total
    assert 2**size.log2_ratio == pytest.approx(size.ratio)
    assert (size.layer_ratio is None) == (size.targets.total == 0)
    assert (size.nominal_ratio is None) == (size.nominal_bits == 0)


@given(finite, finite)
def test_the_smaller_loss_is_the_better_value(a, b):
    up, down = Objective("accuracy"), Objective("bytes", Direction.MINIMIZE)
    assert (up.loss(a) < up.loss(b)) == (a > b)
    assert (down.loss(a) < down.loss(b)) == (a < b)
    assert up.value(up.loss(a)) == a
    assert down.value(down.loss(a)) == a


@given(finite, st.floats(0, 1))
def test_a_margin_is_points_of_a_fraction_and_a_share_of_anything_else(reference, margin):
    assert Objective("accuracy", unit="fraction").allowance(margin, reference) == margin
    down = Objective("perplexity", Direction.MINIMIZE)
    assert down.allowance(margin, reference) == margin * abs(reference) >= 0


def test_a_paired_drop_is_the_difference_of_the_accuracies():
    reference = np.array([1, 1, 1, 0, 0, 1, 1, 1], bool)
    model = np.array([1, 0, 0, 1, 0, 1, 1, 1], bool)
    pair = Paired(8, int((reference & ~model).sum()), int((model & ~reference).sum()))
    assert pair.drop == reference.mean() - model.mean()


def test_verified_means_without_problems():
    assert verification().verified
    assert not verification(problems=("bytes differ",)).verified
