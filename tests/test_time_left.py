"""The time that a study says it still takes, against what it then took, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from fake_runner import CONFIG, FakeRunner
from hypothesis import given
from hypothesis import strategies as st
from virtual_cluster import Machines, VirtualCluster

from study.config import parse_config
from study.terminal.time_left import Lengths, seconds_left
from trainables.record import canonical

SHARES = (0.25, 0.5, 0.75)
NEVER = 1e12


@dataclass(frozen=True)
class Simulated:
    """A study to be run: so many trials, so many at once."""

    trials: int = 60
    at_once: int = 1
    scheduler: str = "pareto_asha"
    fails: float = 0.0  # share of trials that fail before their first report
    cost: Callable[[float], float] = lambda share: 1.0  # of an epoch, by the share of trials begun
    lives: float = NEVER  # of a machine

    def ratios(self, seed: int) -> list[float]:
        """Predicted over real time left when each of the shares of the trials has ended."""
        left: dict[float, tuple[float, float]] = {}
        with clock() as now:
            config = parse_config(
                CONFIG.replace("trials: 12", f"trials: {self.trials}").replace(
                    "{tpe: {startup: 4}}", "random"
                )
                + f"scheduler: {self.scheduler}\nseed: {seed}\n"
            )
            runner = FakeRunner(
                config,
                concurrency=self.at_once,
                fails=lambda trial: Random(canonical(trial)).random() < self.fails,
            )

            def look(at: float) -> None:
                done = runner.state.counts()["ran"] / self.trials
                for share in SHARES:
                    if done >= share and share not in left:
                        left[share] = at, seconds_left(runner.state, self.trials, at)

            machines = Machines(self.at_once, 1, self.lives, 3.0)
            cost = lambda started: self.cost(min(1.0, started / self.trials))  # noqa: E731
            now.of = VirtualCluster(runner, machines, seed, cost, look)
            end = now.of.run().now
        return [said / (end - at) for at, said in left.values()]


@contextmanager
def clock() -> Iterator[SimpleNamespace]:
    """The driver's events at the time of a virtual cluster, ``of``."""
    now = SimpleNamespace(of=SimpleNamespace(now=0.0))
    told = SimpleNamespace(time=lambda: now.of.now, monotonic=lambda: now.of.now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("study.loop.driver.time", told)
        patch.setattr("fake_runner.time", told)
        yield now


STUDIES = {
    "one at a time": Simulated(80),
    "four at a time": Simulated(100, 4),
    "many at a time": Simulated(160, 32),
    "nothing is stopped": Simulated(60, 4, "fifo"),
    "a third fails": Simulated(100, 4, fails=0.33),
    "cost grows to three times": Simulated(100, 4, cost=lambda share: 1 + 2 * share),
    "machines are lost": Simulated(120, 10, lives=60.0),
    "few": Simulated(24, 4),
}


@pytest.fixture(scope="module")
def ratios():
    """Of each study, for some seeds, at each share. A trial's length varies twelvefold and more."""
    return {n: np.array([s.ratios(seed) for seed in range(3)]) for n, s in STUDIES.items()}


@pytest.mark.parametrize("name", STUDIES)
def test_the_time_left_is_right_within_two_after_a_quarter(ratios, name):
    middle = np.median(ratios[name], axis=0)
    assert middle.shape == (len(SHARES),)
    assert ((middle >= 0.5) & (middle <= 2)).all(), ratios[name]


def test_and_seldom_wrong_by_more(ratios):
    every = np.concatenate([r.ravel() for r in ratios.values()])
    assert np.mean((every >= 0.5) & (every <= 2)) >= 0.85


def test_equal_trials_leave_what_is_left():
    ages, chance = np.array([0.5, 1.5]), np.random.default_rng(0)
    lengths = Lengths([2.0] * 5, ages)
    assert lengths.mean == pytest.approx(2.0)
    assert lengths.draw(3, chance) == [2.0] * 3
    assert lengths.draw_rest(ages, chance) == pytest.approx([1.5, 0.5])


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=30),
    st.lists(st.floats(0, 100), max_size=20),
)
def test_lengths_are_between_those_that_were_seen(ended, ages):
    running, chance = np.array(ages), np.random.default_rng(0)
    lengths = Lengths(ended, running)
    seen = [*ended, *ages]
    most = max(seen)
    if max(ages, default=-1.0) >= max(ended):  # nobody knows how long that one still runs
        most += sum(seen) / len(ended)
    assert min(seen) * (1 - 1e-9) <= lengths.mean <= most * (1 + 1e-9)
    assert max(lengths.draw(50, chance)) <= most * (1 + 1e-9)
    assert min(lengths.draw_rest(running, chance), default=0) >= 0
    without = Lengths(ended, np.array([]))
    assert without.mean == pytest.approx(np.mean(ended))
    # A trial that runs as long as the longest that ended makes none shorter.
    assert Lengths(ended, np.array([max(ended)])).mean >= without.mean - 1e-9


@given(st.lists(st.floats(0.1, 10), min_size=200, max_size=200), st.integers(0, 3))
def test_what_is_drawn_has_the_mean(ended, seed):
    lengths = Lengths(ended, np.array([]))
    drawn = lengths.draw(4000, np.random.default_rng(seed))
    assert np.mean(drawn) == pytest.approx(lengths.mean, abs=5 * np.std(ended) / 4000**0.5 + 1e-9)
