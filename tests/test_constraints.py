"""Constraints: how they are read, what breaks them, what no model can meet, what they do."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
from fake_runner import CONFIG, FakeRunner, outcome_of
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import Shelf, TinyTask, make_trial

from compression.registry import InvalidSetting, errors_of
from study.config import parse_config
from study.constraints import Demands, parse_constraint
from study.events import SEARCH
from study.fields.choices import parse_options
from study.keeping.retention import Retention
from study.loop.confirm import front
from study.reach import reach
from study.state import Phase
from study.store.storage import Storage
from trainables import attempt as attempts
from trainables.attempt import Attempt
from trainables.build import build, measure_size
from trainables.record import (
    Choice,
    Direction,
    LayerRule,
    Objective,
    Outcome,
    Parts,
    Report,
    Size,
    Status,
    Trial,
)
from trainables.tasks import Digits

TASK = Digits()
DENSE = 10_000


class Perplexed(Digits):
    """Digits with a metric that is no fraction, and better small."""

    @property
    def objective(self) -> Objective:
        return Objective("perplexity", Direction.MINIMIZE)


def outcome(accuracy=0.9, file_bytes=5_000, macs=100, latency_ms=None, **more):
    size = Size(Parts(base=file_bytes), Parts(), Parts(base=DENSE), Parts(), 0, 8)
    metrics = {"val": {"accuracy": accuracy, "perplexity": 10 / accuracy}}
    made = Outcome(Status.COMPLETED, 4, 4, metrics, size, macs, latency_ms=latency_ms)
    return dataclasses.replace(made, **more)


@pytest.mark.parametrize(
    ("text", "name", "upper", "bound"),
    [
        ("drop <= 1pp", "drop", True, 0.01),
        ("drop<=0.02", "drop", True, 0.02),
        ("drop <= -1pp", "drop", True, -0.01),
        ("stored_bytes <= 5 MB", "stored_bytes", True, 5e6),
        ("file_bytes <= 1.5 MiB", "file_bytes", True, 1.5 * 2**20),
        ("val_accuracy >= 90%", "val_accuracy", False, 0.9),
        ("accuracy >= 0.9", "val_accuracy", False, 0.9),
        ("ratio >= 4x", "ratio", False, 4),
        ("macs <= 1e6", "macs", True, 1e6),
        ("latency_ms <= 3ms", "latency_ms", True, 3),
    ],
)
def test_constraints_are_read_as_people_write_them(text, name, upper, bound):
    found = parse_constraint(text, TASK)
    assert (found.name, found.upper, found.text) == (name, upper, text)
    assert found.bound == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ratio > 4", "expected NAME <= AMOUNT or NAME >= AMOUNT"),
        ("ratio", "expected NAME <= AMOUNT"),
        ("4 <= ratio", "expected NAME <= AMOUNT"),
        ("stored_byte <= 5", "did you mean 'stored_bytes'?"),
        ("drop <= 1%", "expected points of a fraction such as 0.01 or 1pp"),
        ("ratio >= 4 MB", "expected a number such as 4"),
        ("file_bytes <= 5 mb", "expected bytes such as 200 kB"),
        ("latency_ms <= 3 kg", "expected milliseconds"),
        ("macs <= 0", "expected more than 0"),
        ("ratio >= -1", "expected more than 0"),
    ],
)
def test_malformed_ones_are_refused_with_what_was_expected(text, said):
    with pytest.raises(InvalidSetting, match=said.replace("?", r"\?")):
        parse_constraint(text, TASK)


def test_a_drop_of_what_is_no_fraction_is_a_share():
    found = parse_constraint("drop <= 5%", Perplexed())
    worse = outcome(accuracy=0.8).metrics["val"]["perplexity"] / 10 * 0.9 - 1
    assert found.value(outcome(accuracy=0.8), outcome(accuracy=0.9)) == pytest.approx(worse)
    with pytest.raises(InvalidSetting, match="a share such as"):
        parse_constraint("drop <= 1pp", Perplexed())


NUMBERS = {
    "drop": st.floats(-1, 1),
    "val_accuracy": st.floats(0, 1),
    "ratio": st.floats(0.1, 100),
    "file_bytes": st.integers(1, 10**6),
    "macs": st.integers(1, 10**6),
    "latency_ms": st.floats(0.01, 100),
}


@given(
    name=st.sampled_from(sorted(NUMBERS)),
    sign=st.sampled_from(["<=", ">="]),
    made=st.builds(
        outcome,
        accuracy=st.floats(0.1, 1),
        file_bytes=st.integers(1, 10**6),
        macs=st.integers(1, 10**6),
        latency_ms=st.floats(0.01, 100),
    ),
    data=st.data(),
)
def test_a_violation_is_above_0_where_the_bound_is_exceeded(name, sign, made, data):
    bound = data.draw(NUMBERS[name])
    found = parse_constraint(f"{name} {sign} {bound:f}", TASK) if bound > 1e-6 else None
    if found is None:
        return
    value, violation = found.value(made, outcome()), found.violation(made, outcome())
    exceeded = value > found.bound if sign == "<=" else value < found.bound
    assert violation == pytest.approx(0, abs=1e-9) or (violation > 0) == exceeded


@given(st.integers(1, 10**6), st.floats(0.5, 50))
def test_a_ratio_and_its_bytes_are_violated_alike(file_bytes, ratio):
    made = outcome(file_bytes=file_bytes)
    as_ratio = parse_constraint(f"ratio >= {ratio!r}", TASK)
    as_bytes = parse_constraint(f"file_bytes <= {DENSE / ratio!r}", TASK)
    assert as_ratio.violation(made) == pytest.approx(as_bytes.violation(made), abs=1e-9)


def test_what_was_not_measured_is_not_met():
    for text in ("drop <= 1pp", "latency_ms <= 3", "macs <= 1e6"):
        assert parse_constraint(text, TASK).violation(outcome(macs=None)) is None
        demands = Demands([parse_constraint(text, TASK)])
        runner = FakeRunner(parse_config(CONFIG.replace("trials: 12", "trials: 1"))).run()
        (trial,) = runner.state.searched
        object.__setattr__(trial.record, "outcome", outcome(macs=None))
        assert not demands.met(trial)
        assert demands.excess(trial.record) == (math.inf,)


def problems(*texts, rest="none", method="int1"):
    space = f"space: {{method: [{method}], rest: [{rest}]}}\n"
    return errors_of(lambda: parse_config(f"task: digits\nconstraints: {list(texts)}\n{space}"))


def test_all_errors_are_said_at_once_with_their_line():
    found = problems("ratio > 4", "byte <= 3", "drop <= 150pp", "file_bytes <= 100")
    assert len(found) == 4
    assert all(error.startswith("config:2: constraints: ") for error in found)


def _reach(method, *rests):
    return reach(TASK, parse_options("method", [method]), parse_options("rest", list(rests)))


@pytest.mark.parametrize("rests", [("none",), ("none", "cast")])
@pytest.mark.parametrize(("method", "adapter"), [("int1", "none"), ("rtn", "none"),
                                                 ("drop_base", "lora")])  # fmt: skip
def test_no_model_has_less_than_is_said_to_be_left(method, adapter, rests):
    """Beside what the targets take it is just that, where the rest is stored as small as it can."""
    bounds, data = _reach(method, *rests), TASK.prepare(0)
    rule = LayerRule((Choice(method),), adapter=Choice(adapter), rank=int(adapter != "none"))
    for rest in rests:
        trial = Trial(Choice("digits"), (rule,), rest=Choice(rest))
        size = measure_size(build(TASK, data, trial), TASK, data, trial)
        assert size.dense_model.total == bounds.dense
        assert size.file_bytes > bounds.file + bounds.targets
        assert size.ratio < bounds.ratio
        assert size.stored_bytes >= bounds.stored + bounds.targets
        assert size.dense_targets.total == bounds.layers
        assert size.layer_ratio <= bounds.layer_ratio
        assert (size.model.untouched == bounds.stored) == (rest == rests[-1])


def _eight_bits(*constraints):
    return problems(*constraints, method="{rtn: {bits: [8], mode: symmetric, group_size: 0}}")


def test_the_least_that_the_methods_store_bounds_what_can_be_asked():
    bounds = _reach({"rtn": {"bits": [8], "mode": "symmetric", "group_size": 0}}, "none")
    assert bounds.layers / 4 < bounds.targets < bounds.layers / 3  # 8 of 32 bits, and the scales
    assert _eight_bits("ratio >= 8")
    assert _eight_bits("layer_ratio >= 4")
    assert not _eight_bits(f"ratio >= {bounds.ratio:.4f}"[:-2])
    assert not _eight_bits(f"stored_bytes <= {bounds.stored + bounds.targets}")
    (said,) = _eight_bits(f"stored_bytes <= {bounds.stored + bounds.targets - 1}")
    assert f"{bounds.targets:,} of the targets" in said


@pytest.mark.parametrize("method", ["svd", "global_magnitude", "awq", "drop_base"])
def test_of_bytes_that_are_known_after_compressing_nothing_is_said(method):
    assert _reach(method, "none").targets == 0
    assert _reach("none", "none").targets > 0


def test_casting_the_rest_halves_the_least():
    as_it_is, cast = _reach("int1", "none"), _reach("int1", "none", "cast")
    assert cast.stored * 2 == as_it_is.stored == as_it_is.rest == cast.rest
    between = f"stored_bytes <= {as_it_is.stored + as_it_is.targets - 1}"
    assert problems(between)
    assert not problems(between, rest="none, cast")


def test_nothing_is_said_of_bytes_that_go_with_removed_structure():
    assert problems("ratio >= 1000")
    assert not problems("ratio >= 1000", method="channels")


@pytest.mark.parametrize(
    "pair",
    [
        ("ratio >= 4", "ratio <= 3"),
        ("ratio >= 4", "stored_bytes >= 5 kB"),
        ("ratio >= 4", "file_bytes >= 5 kB"),
        ("ratio <= 2", "file_bytes <= 5 kB"),
        ("file_bytes <= 5 kB", "stored_bytes >= 6 kB"),
        ("accuracy >= 90%", "val_accuracy <= 0.8"),
    ],
)
def test_pairs_that_exclude_each_other_are_refused(pair):
    (error,) = problems(*pair)
    assert f"{pair[0]} and {pair[1]}: no model can meet both" in error
    assert problems(*reversed(pair))


def test_pairs_that_leave_room_are_taken():
    assert not problems("ratio >= 2", "ratio <= 3", "file_bytes <= 6 kB", "drop <= 1pp")
    (error,) = problems("ratio >= 2", "ratio >= 3")
    assert "bounded twice" in error


def test_an_amount_that_a_fraction_cannot_have_is_refused():
    (error,) = problems("accuracy >= 1.2")
    assert "accuracy is a fraction: expected 0 to 1" in error


@given(st.booleans(), st.booleans())
def test_what_may_still_shrink_is_not_hopeless(settled, moving):
    demands = Demands([parse_constraint("ratio >= 4", TASK)])
    report = Report(0, {}, file_bytes=5_000 if moving else None, settled=settled)
    assert demands.hopeless(report, outcome(file_bytes=5_000)) == (settled and not moving)
    assert not demands.hopeless(report, outcome(file_bytes=2_000))
    # Training may mend these.
    trainable = Demands([parse_constraint("drop <= 1pp", TASK)], lambda: outcome(accuracy=1.0))
    assert not trainable.hopeless(report, outcome(accuracy=0.1))


@pytest.fixture(scope="module")
def searched():
    return FakeRunner(parse_config(CONFIG + "constraints: [ratio >= 2, drop <= 40pp]\n")).run()


def _beyond(trial):
    """As the fake trial would be, were it run to its end."""
    return outcome_of(trial.trial, trial.trial.epochs).size.ratio < 2


def test_a_trial_that_is_too_large_ends_before_it_trains(searched):
    large = [t for t in searched.state.searched if _beyond(t) and t.trial.epochs]
    assert large, "every trial was small enough: the test says nothing"
    for trial in large:
        assert trial.phase is Phase.STOPPED
        assert (trial.record.outcome.epochs_done, trial.record.outcome.sha256) == (0, None)
    others = [t for t in searched.state.searched if not _beyond(t) and t.trial.epochs]
    assert all(t.record.outcome.epochs_done > 0 for t in others)


def test_baselines_are_held_to_nothing(searched):
    assert all(t.phase is Phase.COMPLETED for n, t in searched.state.trials.items() if n < 0)


def test_the_searcher_is_told_what_each_trial_breaks(searched):
    told = {t.number: t for t in searched.search._optuna.trials}
    assert told
    ended = [t for _, t in sorted(searched.state.trials.items()) if t.role == SEARCH]
    for number, trial in enumerate(ended):
        expected = searched.demands.violations(trial.record)
        assert set(expected) == {"ratio >= 2", "drop <= 40pp"}
        assert told[number].constraints == pytest.approx(expected)


def test_the_front_holds_what_meets_the_constraints(searched):
    goals = searched.driver.plan.aims
    members = front(searched.state, goals, searched.demands.met)
    dense = searched.state.baseline("dense").record.outcome.metrics["val"]["accuracy"]
    for trial in members:
        made = trial.record.outcome
        assert made.size.ratio >= 2
        assert dense - made.metrics["val"]["accuracy"] <= 0.4
    assert len(members) < len(searched.state.searched)


def test_files_that_meet_them_are_not_given_up_for_better_ones_that_do_not(tmp_path, searched):
    """Fewer bytes and more right, but too much work: it takes nobody's place."""
    demands = Demands([parse_constraint("macs <= 200", TASK)])
    storage, goals = Storage.open(tmp_path), searched.driver.plan.aims
    meant = outcome(macs=100, sha256="a"), outcome(0.99, 1_000, macs=300, sha256="b")
    for constrained in (demands, Demands()):
        state = copy.deepcopy(searched.state)
        trials = [t for t in state.searched if t.number in state.trials][:2]
        for trial, made in zip(trials, meant, strict=True):
            object.__setattr__(trial.record, "outcome", made)
        state.trials = {trial.number: trial for trial in trials}
        kept = Retention(storage, state, goals, 0.01, constrained).kept
        both = {trial.trial_id for trial in trials}
        assert set(kept) == (both if constrained is demands else {trials[1].trial_id})


def test_a_resumed_search_suggests_what_an_undisturbed_one_would(searched):
    half = len(searched.log) // 2
    resumed = FakeRunner(searched.config, events=list(searched.log)[:half]).run()
    params = [t.params for _, t in sorted(searched.state.trials.items())]
    assert [t.params for _, t in sorted(resumed.state.trials.items())] == params


def test_where_nothing_meets_them_the_nearest_is_named(searched):
    assert searched.demands.shortfall(searched.state) is None
    texts = ["accuracy >= 0.9999", "drop <= 40pp"]
    hard = Demands.of(searched.config.task, texts, searched.state)
    best = max(t.record.outcome.metrics["val"]["accuracy"] for t in searched.state.searched)
    said = hard.shortfall(searched.state)
    assert said == (
        f"no model meets the constraints; the nearest has val_accuracy {best:.4g} "
        "(accuracy >= 0.9999)"
    )


def test_what_meets_them_without_a_file_is_said(searched):
    loose = Demands.of(searched.config.task, ["accuracy >= 0.01"], searched.state)
    state = copy.deepcopy(searched.state)
    for trial in state.searched:
        bare = dataclasses.replace(trial.record.outcome, sha256=None)
        trial.record = dataclasses.replace(trial.record, outcome=bare)
    met = sum(loose.met(trial) for trial in state.searched)
    assert loose.shortfall(searched.state) is None
    assert loose.shortfall(state).startswith(f"{met} of the models met the constraints but ended")
    assert met > 0


def test_a_weighed_trial_ends_where_it_would_have(monkeypatch):
    """It comes back once before it trains, without a file; then nothing is different."""
    monkeypatch.setattr(attempts, "PATIENCE", 1e9)
    task = TinyTask()
    weighed, plain = (
        Attempt(task, task.prepare(0), make_trial(epochs=2), Shelf()) for _ in range(2)
    )
    assert [r.epochs_done for r in weighed.advance(weighed=True)] == [0]
    assert weighed.outcome.status is Status.STOPPED
    assert weighed.outcome.sha256 is None
    assert not weighed.shelf.files
    assert [r.epochs_done for r in weighed.advance(weighed=True)] == [1, 2]
    plain.advance()
    assert weighed.outcome.sha256 == plain.outcome.sha256
    assert weighed.finished
    assert plain.finished
