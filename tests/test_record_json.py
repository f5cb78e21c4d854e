"""Core types go to JSON without loss, and their identities last."""

import dataclasses
import json
import pickle

import log_helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_strategies import fingerprints, records, trials, verifications

from trainables.record import (
    Choice,
    Drop,
    Fingerprint,
    LayerRule,
    Record,
    RecordError,
    Trial,
    canonical,
    from_json,
    to_json,
)

FINGERPRINT = Fingerprint("weights", "data")
RULE = LayerRule((Choice("int1"),), Choice("residual"), Choice("lora"), rank=4)


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


def test_a_drop_from_before_there_were_groups_is_read():
    bounds = {"value": 0.01, "low": 0.0, "high": 0.02}
    old = {"metric": "f1", "n": 719, "absolute": bounds, "method": "paired bootstrap"}
    drop = from_json(Drop, old)
    assert drop.groups is None
    assert to_json(drop) == old


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
