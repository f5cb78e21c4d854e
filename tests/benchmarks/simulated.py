"""Asynchronous workers in virtual time: a search that takes minutes is played in a second or two.

Every arm meets the same rules. The unit of cost is the task's median epoch. A trial costs its
set-up and then its epochs; one without an adapter the set-up alone. A setting that is, by the
rules' key, the same as one that was run before is answered from its record and costs nothing. A
trial that is stopped is a model with a file: it counts with the best metric of the epochs that it
reached, from the moment at which it ends; one that fails has none, and one that the end of the
budget cuts off never counts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from surrogate import Foretold

from analysis.fronts import hypervolume
from study.schedulers import Standing
from trainables.record import Objective, Scalar, Status

MOST_DUPLICATES = 100  # in a row; then the arm has nothing left to suggest
Params = dict[str, Scalar]
Losses = tuple[float, float]


@dataclass(frozen=True)
class Result:
    """How a trial ended: its reports so far, and its losses, none if it failed."""

    params: Params
    status: Status
    foretold: Foretold
    reports: tuple[Standing, ...]
    losses: Losses | None


class Arm(Protocol):
    """A way to search. Numbers count its suggestions from 0."""

    def suggest(self, number: int) -> Params | None:
        """The next setting; None if nothing is left."""

    def on_report(self, number: int, at: Standing) -> bool:
        """A report of each epoch, 0 first; whether the trial may go on."""

    def on_end(self, number: int, result: Result) -> None:
        """What became of it; at once, if the setting was run before."""


@dataclass(frozen=True)
class Landed:
    """A result, when ``spent`` of the budget was gone."""

    spent: float
    losses: Losses


@dataclass
class Played:
    """What a search came to: its results in time, and what it was made of.

    ``busy`` is the cost of all trials, the cut-off ones as far as they came.
    """

    landed: list[Landed] = field(default_factory=list)
    suggested: int = 0
    answered: int = 0
    ended: int = 0
    stopped: int = 0
    failed: int = 0
    busy: float = 0.0


@dataclass(frozen=True)
class Rules:
    """What a search is played by.

    ``play`` is the trial of a setting, ``key`` the same for settings that are the same trial,
    ``objective`` that of the metric. ``budget`` is what all ``workers`` together may spend, in
    units of ``unit`` seconds.
    """

    play: Callable[[Params], Foretold]
    key: Callable[[Params], Hashable]
    objective: Objective
    workers: int
    budget: float
    unit: float = 1.0


@dataclass
class _Running:
    number: int
    params: Params
    key: Hashable
    foretold: Foretold
    begun: float
    waiting: list[tuple[int, Params]] = field(default_factory=list)
    reports: list[Standing] = field(default_factory=list)


class Simulation:
    """One search from its first suggestion to the end of its budget."""

    def __init__(self, arm: Arm, rules: Rules) -> None:
        self.arm, self.rules = arm, rules
        self.played = Played()
        self._end = rules.budget / rules.workers
        self._running: dict[Hashable, _Running] = {}
        self._known: dict[Hashable, Result] = {}
        # What happens next: when, in which order of trials, to which, its epoch.
        self._events: list[tuple[float, int, Hashable, int]] = []

    def run(self) -> Played:
        """Play it."""
        for _ in range(self.rules.workers):
            self._start(0.0)
        while self._events and self._events[0][0] <= self._end:
            at, _, key, epoch = heapq.heappop(self._events)
            if self._goes_on(self._running[key], at, epoch):
                self._plan(self._running[key], epoch + 1)
            else:
                self.played.busy += at - self._running[key].begun
                self._finish(self._running.pop(key), at, epoch)
                self._start(at)
        self.played.busy += sum(self._end - trial.begun for trial in self._running.values())
        return self.played

    def _start(self, at: float) -> None:
        """Give a worker something to do, if there is something that is not known."""
        for _ in range(MOST_DUPLICATES):
            number = self.played.suggested
            if (params := self.arm.suggest(number)) is None:
                return
            self.played.suggested += 1
            key = self.rules.key(params)
            if key in self._known:
                self._answer(number, params, self._known[key])
            elif key in self._running:
                self._running[key].waiting.append((number, params))
            else:
                trial = _Running(number, params, key, self.rules.play(params), at)
                self._running[key] = trial
                return self._plan(trial, 0)

    def _plan(self, trial: _Running, epoch: int) -> None:
        cost = trial.foretold.set_up + epoch * trial.foretold.epoch
        heapq.heappush(self._events, (trial.begun + cost, trial.number, trial.key, epoch))

    def _goes_on(self, trial: _Running, at: float, epoch: int) -> bool:
        foretold = trial.foretold
        if epoch == foretold.fails_in:
            return False
        loss = self.rules.objective.loss(foretold.metric[epoch])
        seconds = (at - trial.begun) * self.rules.unit
        report = Standing(epoch, (loss, -foretold.log2_ratio), seconds)
        trial.reports.append(report)
        go_on = self.arm.on_report(trial.number, report)
        return go_on and epoch < len(foretold.metric) - 1

    def _finish(self, trial: _Running, at: float, epoch: int) -> None:
        last, failed = len(trial.foretold.metric) - 1, epoch == trial.foretold.fails_in
        status = Status.COMPLETED if epoch == last else Status.STOPPED
        losses = None
        if failed:
            status = Status.FAILED
        else:
            best = min(report.losses[0] for report in trial.reports)
            losses = (best, -trial.foretold.log2_ratio)
            self.played.landed.append(Landed(at * self.rules.workers, losses))
        self.played.ended += 1
        self.played.stopped += status is Status.STOPPED
        self.played.failed += failed
        result = Result(trial.params, status, trial.foretold, tuple(trial.reports), losses)
        self._known[trial.key] = result
        self.arm.on_end(trial.number, result)
        for number, params in trial.waiting:
            self._answer(number, params, result)

    def _answer(self, number: int, params: Params, result: Result) -> None:
        self.played.answered += 1
        told = Result(params, result.status, result.foretold, result.reports, result.losses)
        self.arm.on_end(number, told)


def simulate(arm: Arm, rules: Rules) -> Played:
    """Play one search."""
    return Simulation(arm, rules).run()


def volumes(
    landed: Sequence[Landed], grid: Sequence[float], reference: Losses, best: float
) -> np.ndarray:
    """Hypervolume as a share of ``best`` when so much was spent; (len(grid),)."""
    found = np.zeros(len(grid))
    front: list[Losses] = []
    share, place = 0.0, 0
    for one in sorted(landed, key=lambda one: one.spent):
        while place < len(grid) and grid[place] < one.spent:
            found[place], place = share, place + 1
        if not any(a <= one.losses[0] and b <= one.losses[1] for a, b in front):
            front = [p for p in front if p[0] < one.losses[0] or p[1] < one.losses[1]]
            front.append(one.losses)
            share = hypervolume(front, reference) / best
    found[place:] = share
    return found


def losses_of(trials: Sequence[Foretold], objective: Objective) -> list[Losses]:
    """Of trials that run to their ends, those that fail left out."""
    return [
        (min(objective.loss(value) for value in trial.metric), -trial.log2_ratio)
        for trial in trials
        if trial.fails_in is None
    ]


class Drawn:
    """Values drawn at random: the part of an Optuna trial that a space needs."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return choices[self._generator.integers(len(choices))]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        if not log:
            return int(self._generator.integers(low, high + 1))
        return round(np.exp(self._generator.uniform(np.log(low - 0.5), np.log(high + 0.5))))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if not log:
            return float(self._generator.uniform(low, high))
        return float(np.exp(self._generator.uniform(np.log(low), np.log(high))))
