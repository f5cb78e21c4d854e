"""The core types: their own rules, JSON without loss, and identities that last."""

import dataclasses
import json
import pickle

import log_helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.record import (
    NONE,
    Choice,
    Direction,
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
    Size,
    Status,
    Trial,
    Verification,
    canonical,
    from_json,
    to_json,
)

FINGERPRINT = Fingerprint("weights", "data")
RULE = LayerRule((Choice("int1"),), Choice("residual"), Choice("lora"), rank=4)

words = st.text("abcdefghij_", min_size=1, max_size=8)
texts = st.text(max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-12, 1e12)
counts = st.integers(0, 2**60)
scalars = st.booleans() | st.integers(-(2**60), 2**60) | finite | texts
choices = st.builds(Choice, words, st.dictionaries(words, scalars, max_size=3))
metrics = st.dictionaries(words, finite, min_size=1, max_size=3)
fingerprints = st.builds(Fingerprint, texts, texts, texts)
parts = st.builds(Parts, *[counts] * 6)
some_bytes = st.builds(Parts, st.integers(1, 2**60), *[counts] * 5)
sizes = st.builds(Size, some_bytes, parts, some_bytes, parts, counts, counts)
reports = st.builds(Report, st.integers(0, 999), metrics, st.none() | finite, finite)
adapters = choices.filter(lambda choice: choice != NONE)
chains = st.lists(choices, min_size=1, max_size=2).map(tuple)
rules = st.builds(
    LayerRule, chains, choices, adapters, st.integers(1, 99), st.none() | positive, words
) | st.builds(LayerRule, chains, pattern=words)


@st.composite
def trials(draw):
    epochs = draw(st.integers(0, 99))
    low = 1 if epochs else 0
    return Trial(
        task=draw(choices),
        layers=tuple(draw(st.lists(rules, min_size=1, max_size=3))),
        recipe=draw(choices),
        optimizer=draw(adapters if epochs else choices),
        lr_schedule=draw(choices),
        losses=tuple(draw(st.lists(choices, max_size=2))),
        hooks=tuple(draw(st.lists(choices, max_size=2))),
        rest=draw(choices),
        lr=draw(positive if epochs else st.floats(0, 1)),
        batch_size=draw(st.integers(low, 4096)),
        epochs=epochs,
        seed=draw(st.integers(0, 2**60)),
    )


@st.composite
def outcomes(draw):
    status = draw(st.sampled_from(Status))
    failed = status is Status.FAILED
    val = st.fixed_dictionaries({} if failed else {"val": metrics}, optional={"train": metrics})
    return Outcome(
        status=status,
        epochs_done=draw(st.integers(0, 99)),
        best_epoch=draw(st.none() | st.integers(0, 99)),
        metrics=draw(val),
        size=draw(st.none() | sizes if failed else sizes),
        macs=draw(st.none() | counts),
        seconds=draw(st.none() | finite),
        peak_memory=draw(st.none() | counts),
        sha256=draw(st.none() | texts),
        probe=draw(st.none() | texts),
        curve=tuple(draw(st.lists(reports, max_size=3))),
        notes=tuple(draw(st.lists(texts, max_size=2))),
        error=draw(st.text(min_size=1)) if failed else None,
    )


labels = st.dictionaries(texts, texts, max_size=2)
origins = st.builds(
    Origin, fingerprints, texts, st.none() | st.booleans(), labels, texts, labels, texts
)
records = st.builds(Record, trials(), outcomes(), origins)
paired = st.builds(Paired, st.just(100), st.integers(0, 50), st.integers(0, 50), counts)
verifications = st.builds(
    Verification,
    words,
    words,
    counts,
    metrics,
    st.dictionaries(words, paired, max_size=2),
    st.none() | finite,
    st.none() | counts,
    st.lists(counts, max_size=3).map(tuple),
    st.lists(texts, max_size=2).map(tuple),
    st.sampled_from(Verification.AGREEMENTS),
)


def through_text(value):
    return from_json(type(value), json.loads(canonical(value)))


@given(records)
def test_a_record_survives_json(record):
    again = through_text(record)
    assert again == record
    assert canonical(again) == canonical(record)
    assert (again.trial_id, again.config_id) == (record.trial_id, record.config_id)


@given(verifications)
def test_a_verification_survives_json(verification):
    assert through_text(verification) == verification


@given(trials())
def test_a_trial_survives_pickling(trial):
    assert pickle.loads(pickle.dumps(trial)) == trial


@given(trials(), fingerprints, st.integers(0, 99))
def test_the_seed_is_in_the_trial_id_and_not_in_the_config_id(trial, on, seed):
    other = dataclasses.replace(trial, seed=seed)
    assert trial.config_id(on) == other.config_id(on)
    assert (trial.trial_id(on) == other.trial_id(on)) == (trial.seed == seed)


@pytest.mark.parametrize("field", ["weights", "data", "calibration"])
def test_identities_depend_on_what_the_trial_is_run_on(field):
    trial = log_helpers.make_trial()
    other = dataclasses.replace(FINGERPRINT, **{field: "other"})
    assert trial.trial_id(FINGERPRINT) != trial.trial_id(other)
    assert trial.config_id(FINGERPRINT) != trial.config_id(other)


def test_canonical_json_holds_only_what_was_set():
    trial = Trial(Choice("digits"), (LayerRule((Choice("int1"),)),))
    expected = '{"layers":[{"methods":[{"name":"int1"}]}],"task":{"name":"digits"}}'
    assert canonical(trial) == expected
    assert len(trial.trial_id(FINGERPRINT)) == 16
    int(trial.trial_id(FINGERPRINT), 16)


def later(cls):
    """The type as a later version has it: one more field, with a default."""
    return dataclasses.make_dataclass(
        f"Later{cls.__name__}",
        [("added", tuple[Choice, ...], dataclasses.field(default=(Choice("x"),)))],
        bases=(cls,),
        frozen=True,
    )


def as_later(value):
    given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return later(type(value))(**given)


@given(trials())
def test_identities_survive_a_field_that_is_added_with_a_default(trial):
    grown = as_later(dataclasses.replace(trial, layers=tuple(map(as_later, trial.layers))))
    assert canonical(grown) == canonical(trial)
    assert grown.trial_id(FINGERPRINT) == trial.trial_id(FINGERPRINT)
    changed = dataclasses.replace(grown, added=())
    assert changed.trial_id(FINGERPRINT) != trial.trial_id(FINGERPRINT)


@given(records)
def test_no_field_at_its_default_is_written(record):
    def check(value):
        if isinstance(value, tuple):
            for item in value:
                check(item)
        if not dataclasses.is_dataclass(value):
            return
        written = to_json(value)
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if field.default is not dataclasses.MISSING and inner == field.default:
                assert field.name not in written
            check(inner)

    check(record)


def test_settings_are_the_same_in_any_order():
    one, two = Choice("m", {"a": 1, "b": 2}), Choice("m", {"b": 2, "a": 1})
    assert one == two
    assert hash(one) == hash(two)
    assert canonical(one) == canonical(two)
    assert str(one) == "m(a=1, b=2)"


def test_true_one_and_one_point_zero_are_different_settings():
    spellings = {canonical(Choice("m", {"a": value})) for value in (True, 1, 1.0, "1")}
    assert len(spellings) == 4


def test_a_value_that_only_equals_the_default_is_written():
    @dataclasses.dataclass(frozen=True)
    class Knob:
        value: bool | int | float = 1

    assert len({canonical(Knob(value)) for value in (1, True, 1.0)}) == 3
    assert canonical(Knob(1)) == "{}"


def test_a_whole_number_as_learning_rate_or_alpha_is_the_float():
    trial = dataclasses.replace(log_helpers.make_trial(), lr=1)
    assert canonical(trial) == canonical(dataclasses.replace(trial, lr=1.0))
    assert through_text(trial).trial_id(FINGERPRINT) == trial.trial_id(FINGERPRINT)
    rule = dataclasses.replace(RULE, alpha=8)
    assert canonical(rule) == canonical(dataclasses.replace(rule, alpha=8.0))


def test_settings_cannot_be_changed_afterwards():
    args = {"a": 1}
    choice = Choice("m", args)
    args["a"] = 2
    assert choice.args == {"a": 1}
    with pytest.raises(TypeError):
        choice.args["a"] = 2


@pytest.mark.parametrize(
    "value",
    [np.float64(0.5), np.float32(0.5), np.int64(1), np.bool_(True), np.str_("a"), None, [1], 1j]
    + [float("nan"), float("inf"), -float("inf")],
    ids=repr,
)
def test_settings_that_are_no_finite_plain_scalars_are_refused(value):
    with pytest.raises(RecordError, match=r"^m\.a: "):
        Choice("m", {"a": value})


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
    "LayerRule.rank: must be at least 1": lambda: dataclasses.replace(RULE, rank=0),
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
    "Verification.metrics.accuracy": lambda: verification(metrics={"accuracy": NAN}),
    "Verification.logits_agreement": lambda: verification(logits_agreement="roughly"),
}  # fmt: skip


@pytest.mark.parametrize("where", BROKEN)
def test_each_type_refuses_what_breaks_its_rule(where):
    with pytest.raises(RecordError) as caught:
        BROKEN[where]()
    assert str(caught.value).startswith(where)


def edited(path, value):
    """A record's JSON with one entry changed, or removed where the value is Ellipsis."""
    data = to_json(log_helpers.make_record())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("extra",), 1, "Record: unknown field extra"),
        (("trial", "learning_rate"), 1, "Record.trial: unknown field learning_rate"),
        (("trial", "task"), ..., "Record.trial: missing field task"),
        (("outcome",), ..., "Record: missing field outcome"),
        (("outcome", "size", "nominal_bits"), ..., "Record.outcome.size: missing field nomi"),
        (("trial", "layers"), {}, "Record.trial.layers: expected a list, got {}"),
        (("trial", "layers", 0, "rank"), 1.5, "Record.trial.layers[0].rank: expected int, got 1.5"),
        (("trial", "layers", 0, "rank"), True, "Record.trial.layers[0].rank: expected int, got Tr"),
        (("trial", "task"), "digits", "Record.trial.task: expected an object, got 'digits'"),
        (("outcome", "status"), "done", "Record.outcome.status: expected one of completed, stop"),
        (("outcome", "metrics", "val", "accuracy"), "x", "Record.outcome.metrics.val.accuracy: "),
        (("outcome", "curve", 1, "metrics"), 3, "Record.outcome.curve[1].metrics: expected an obj"),
        (("schema",), 99, "Record.schema: got 99, this version reads up to 1; upgrade it"),
    ],
)
def test_a_wrong_field_is_named(path, value, message):
    with pytest.raises(RecordError) as caught:
        from_json(Record, edited(path, value))
    assert str(caught.value).startswith(message)


def test_what_is_no_object_is_refused():
    with pytest.raises(RecordError, match="Record: expected an object"):
        from_json(Record, [1])


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


def test_a_paired_drop_is_the_difference_of_the_accuracies():
    reference = np.array([1, 1, 1, 0, 0, 1, 1, 1], bool)
    model = np.array([1, 0, 0, 1, 0, 1, 1, 1], bool)
    pair = Paired(8, int((reference & ~model).sum()), int((model & ~reference).sum()))
    assert pair.drop == reference.mean() - model.mean()


def test_verified_means_without_problems():
    assert verification().verified
    assert not verification(problems=("bytes differ",)).verified
