"""What a study trades: names that are objectives, their order, and how trials stand in them."""

from __future__ import annotations

import numpy as np
import pytest
from fake_runner import CONFIG, FakeRunner
from studies import SMALL, run
from studies import state as state_of

from analysis.fronts import non_dominated
from compression.registry import errors_of
from study.config import parse_config
from study.loop.confirm import front
from study.objectives import aims, final, standing
from trainables.record import Direction

THREE = "objectives: [accuracy, ratio, macs]\n"


def test_the_metric_and_the_ratio_come_first_whatever_the_order():
    task = parse_config("task: digits").task
    names = [aim.name for aim in aims(task, ["macs", "ratio", "latency_ms", "accuracy"])]
    assert names == ["val_accuracy", "log2_ratio", "macs", "latency_ms"]
    assert [aim.name for aim in aims(task)] == names[:2]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("[accuracy, ratio, mac]", ["unknown objective 'mac'; did you mean 'macs'?; no recipe"]),
        ("[accuracy, ratio, ratio]", ["ratio: named twice"]),
        ("[macs]", ["accuracy and ratio: must be among them"]),
        (
            "[accuracy, ratio, macs, file_bytes, stored_bytes]",
            ["at most 4, got 5"],
        ),
        ("[f1, ratio, ratio]", ["unknown objective 'f1'", "ratio: named twice"]),
    ],
)
def test_names_that_are_none_are_refused_with_their_line(names, said):
    errors = errors_of(lambda: parse_config(f"task: digits\nobjectives: {names}\n"))
    assert len(errors) == len(said)
    for error, part in zip(errors, said, strict=True):
        assert error.startswith("config:2: objectives")
        assert part in error


def test_losses_are_smaller_where_a_trial_is_better():
    runner = FakeRunner(parse_config(CONFIG + THREE)).run()
    goals = aims(runner.config.task, runner.config.objectives)
    assert [aim.objective.direction for aim in goals][2] is Direction.MINIMIZE
    for trial in runner.state.searched:
        outcome = trial.record.outcome
        losses = final(goals, outcome)
        expected = -outcome.metrics["val"]["accuracy"], -outcome.size.log2_ratio, outcome.macs
        assert losses == pytest.approx(expected)
        assert standing(goals, outcome.curve[-1], outcome) == pytest.approx(losses)


def test_a_third_objective_keeps_points_that_two_would_not():
    runner = FakeRunner(parse_config(CONFIG + THREE)).run()
    goals = aims(runner.config.task, runner.config.objectives)
    # Fewer multiply-adds the larger the file: all of it is on the front of three.
    for trial in runner.state.searched:
        object.__setattr__(trial.record.outcome, "macs", 10**6 - trial.record.outcome.macs)
    members = front(runner.state, goals)
    losses = np.array([final(goals, t.record.outcome) for t in members])
    assert non_dominated(losses).all()
    assert len(members) == len(runner.state.searched) > len(front(runner.state, goals[:2]))


def test_latency_is_that_of_the_table_and_no_table_is_no_value():
    text = CONFIG.replace("trials: 12", "trials: 3") + "objectives: [accuracy, ratio, latency_ms]\n"
    goals = aims(parse_config(text).task, parse_config(text).objectives)
    timed = FakeRunner(parse_config(text), latency=lambda trial: 2.0 + trial.layers[0].rank).run()
    for trial in timed.state.searched:
        assert final(goals, trial.record.outcome)[2] == 2.0 + trial.trial.layers[0].rank
    untimed = FakeRunner(parse_config(text)).run()
    assert [final(goals, t.record.outcome) for t in untimed.state.searched] == [None] * 3


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_study_with_multiply_adds_as_third_objective_runs(tmp_path):
    result = run(tmp_path, "--name", "three", "--quiet", config=SMALL + THREE)
    assert result.returncode == 0, result.stderr
    state = state_of(tmp_path, "three")
    goals = aims(parse_config(SMALL + THREE).task, ["accuracy", "ratio", "macs"])
    ids = [member.trial_id for member in state.frozen.members]
    assert ids == [t.trial_id for t in front(state, goals)]
    assert all(i in state.verifications for i in ids)
