"""What is shown while a study runs."""

from __future__ import annotations

import pytest
from fake_runner import FakeRunner

from study.constraints import Demands
from study.objectives import aims
from study.terminal.live import Live
from trainables.record import Direction, Objective

ACCURACY = Objective("accuracy", unit="fraction")
REGRET = Objective("regret", Direction.MINIMIZE)


@pytest.fixture
def live_and_runner():
    runner = FakeRunner()
    live = Live(runner.state, 12, ACCURACY, 0.1, quiet=False)
    runner.driver.views = (live,)
    return live, runner


def test_before_the_first_trial_it_says_what_is_going_on(live_and_runner):
    live, _ = live_and_runner
    assert "starting" in live.line()
    assert live.seconds_left() is None


def test_every_count_is_in_the_line(live_and_runner):
    live, runner = live_and_runner
    runner.run()
    counts = runner.state.counts()
    line = live.line()
    assert line.startswith("12/12 trials  0 running")
    assert f"{counts['stopped']} stopped" in line
    assert len(line) <= 80


def test_the_front_is_not_dominated_and_rises_in_ratio(live_and_runner):
    live, runner = live_and_runner
    runner.run()
    front = live.front()
    metrics, ratios = [p[0] for p in front], [p[1] for p in front]
    assert ratios == sorted(ratios)
    assert metrics == sorted(metrics, reverse=True)


@pytest.mark.parametrize("many", [10, 1000, 10**7])
def test_the_line_fits_80_columns_however_much_there_is(live_and_runner, monkeypatch, many):
    live, runner = live_and_runner
    runner.run()
    counts = dict.fromkeys(runner.state.counts(), many)
    monkeypatch.setattr(runner.state, "counts", lambda role="search": counts)
    live.trials = 2 * many
    assert len(live.line()) <= 80
    for text in (f"{many}/{2 * many} trials", f"{many} failed"):
        assert text in live.line()


def test_a_log_gets_plain_lines_of_at_most_80_columns(live_and_runner, capsys):
    live, runner = live_and_runner
    with live:
        live.say("a remark " * 30)
        live.say("\x1b[2Jcleared")
        runner.run()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 5
    assert all(len(line) <= 80 and line.isprintable() for line in lines)


def test_plain_lines_go_to_stderr_and_quiet_prints_nothing(live_and_runner, capsys):
    live, runner = live_and_runner
    with live:
        runner.run()
    said = capsys.readouterr()
    assert "trials" in said.err
    assert said.out == ""
    with Live(runner.state, 12, ACCURACY, 0.1, quiet=True):
        pass
    assert capsys.readouterr().err == ""


def test_time_left_falls_to_nothing(live_and_runner):
    live, runner = live_and_runner
    runner.run()
    assert live.seconds_left() == 0


def test_a_metric_to_be_made_small_is_shown_as_the_same_one_negated(live_and_runner):
    live, runner = live_and_runner
    runner.run()
    negated = Live(runner.state, 12, REGRET, -0.1, quiet=False)
    assert [(-value, *rest) for value, *rest in negated.front()] == live.front() != []
    assert negated._hypervolume(negated.front()) == live._hypervolume(live.front()) > 0
    assert "val regret" in str([c.header for c in negated._table().renderables[1].columns])
    assert negated.line().split("hypervolume")[0] == live.line().split("hypervolume")[0]


def test_the_hypervolume_of_one_perfect_point(live_and_runner):
    live, _ = live_and_runner
    assert live._hypervolume([(1.0, 4.0, "")]) == pytest.approx(0.9 * 2)


def test_the_front_holds_the_constraints_and_all_objectives(live_and_runner):
    live, runner = live_and_runner
    runner.run()
    task, best = runner.config.task, live.front()[0][0]
    demands = Demands.of(task, [f"accuracy <= {(best + live.front()[-1][0]) / 2}"], runner.state)
    held = Live(runner.state, 12, ACCURACY, 0.1, met=demands.met)
    assert held.front()
    assert max(metric for metric, *_ in held.front()) < best
    assert held._hypervolume(held.front()) < live._hypervolume(live.front())
    goals = aims(task, ["accuracy", "ratio", "layer_ratio"])
    wide = Live(runner.state, 12, ACCURACY, 0.1, also=goals[2:])
    assert set(live.front()) <= set(wide.front())
