"""Many machines in virtual time: what a result costs does not grow with the trials that run."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from fake_runner import CONFIG, FakeRunner
from virtual_cluster import Machines, VirtualCluster

from study.config import parse_config
from study.events import Ended, Retried, Started
from study.trial_state import Phase

SEARCHERS = [
    "{forest: {startup: 4, history: 10, trees: 2, candidates: 10}}",
    "random",
]


def config_of(trials, searcher=SEARCHERS[0]):
    text = CONFIG.replace("{tpe: {startup: 4}}", searcher).replace("[none, lora]", "[lora, dora]")
    return parse_config(text.replace("trials: 12", f"trials: {trials}"))


def test_trials_of_lost_nodes_come_back_and_end_once():
    machines = Machines(nodes=6, per_node=3, lives=4.0, away=1.0)
    runner = FakeRunner(
        config_of(40), concurrency=machines.places, fails=lambda trial: trial.seed == 9
    )
    cluster = VirtualCluster(runner, machines).run()
    events = Counter(map(type, runner.log))
    assert cluster.most_at_once == machines.places
    assert cluster.lost == events[Retried] > 0
    assert events[Started] == events[Ended] + events[Retried]
    assert runner.state.interrupted() == []
    assert runner.state.counts()["ran"] == 40
    ended = [event.trial_id for event in runner.log if isinstance(event, Ended)]
    assert len(set(ended)) == len(ended)
    for trial in runner.state.trials.values():
        if trial.phase is not Phase.ANSWERED:
            assert [report.epochs_done for report in trial.reports] == list(
                range(trial.reported + 1)
            )


def test_a_cluster_plays_the_same_again():
    logs = []
    for _ in range(2):
        machines = Machines(nodes=3, per_node=2, lives=5.0)
        runner = FakeRunner(config_of(12), concurrency=machines.places)
        VirtualCluster(runner, machines).run()
        logs.append([(type(e), getattr(e, "trial_id", None)) for e in runner.log])
    assert logs[0] == logs[1]


def calls_an_event(places, searcher, measured=40):
    """Of Python functions, in all that the driver does while every place is taken."""
    runner = FakeRunner(config_of(places + measured, searcher), concurrency=places)
    driver, calls, marks = runner.driver, 0, []

    def count(frame, event, arg):
        nonlocal calls
        calls += event == "call"

    def counted(call):
        def counting(*args):
            if not places < driver.searched < places + measured:
                return call(*args)
            marks.append(len(runner.log))
            sys.setprofile(count)
            try:
                return call(*args)
            finally:
                sys.setprofile(None)

        return counting

    driver.next, driver.on_result = counted(driver.next), counted(driver.on_result)
    VirtualCluster(runner, Machines(places // 10, 10, lives=1e9)).run()
    return calls / (marks[-1] - marks[0])


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_an_event_costs_as_much_beside_150_trials_as_beside_30(searcher):
    few, many = (calls_an_event(places, searcher) for places in (30, 150))
    assert many < 1.25 * few
