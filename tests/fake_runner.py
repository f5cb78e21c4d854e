"""A study's loop without Ray: trials whose curves are a function of what was asked."""

from __future__ import annotations

import hashlib
import json
import random
import time
from dataclasses import replace
from functools import cache, partial

from study.baselines import baselines
from study.brief import Plan
from study.config import StudyConfig, parse_config
from study.confirm import wanted
from study.constraints import Demands
from study.driver import FINISHED, Driver
from study.events import Event, Opened
from study.limits import limits
from study.objectives import aims
from study.schedulers import Budget
from study.search import StudySearch
from study.state import StudyState
from trainables.record import (
    OUT_OF_MEMORY,
    Direction,
    Fingerprint,
    Objective,
    Origin,
    Outcome,
    Parts,
    Report,
    Size,
    Status,
    Trial,
    canonical,
    from_json,
    to_json,
)
from trainables.tasks import Digits

CONFIG = """
task: digits
trials: 12
epochs: 9
searcher: {tpe: {startup: 4}}
space:
  method: [{rtn: {bits: [2, 3, 4]}}, int1]
  adapter: [none, lora]
  init: [zeros, residual]
  rank: [1, 2]
  optimizer: [adam, sgd]
  batch_size: [32]
"""


class Regretful(Digits):
    """Digits with a metric to be made small: that of digits, negated."""

    @property
    def objective(self) -> Objective:
        return Objective("regret", Direction.MINIMIZE)

    @property
    def chance(self) -> float:
        return -super().chance


class ListLog(list[Event]):
    """A log in memory that can break after so many events."""

    def __init__(self, events=(), breaks_after: int | None = None) -> None:
        super().__init__(events)
        self.breaks_after = breaks_after

    def append(self, event: Event) -> None:
        if self.breaks_after is not None and len(self) >= self.breaks_after:
            raise InterruptedError("killed")
        super().append(event)


@cache
def usual() -> StudyConfig:
    """What is run where no config is given."""
    return parse_config(CONFIG)


def outcome_of(trial: Trial, epochs_done: int, fails: bool = False) -> Outcome:
    """Deterministic: the trial's hash decides the level that accuracy rises to, its seed a bit."""
    asked = canonical(replace(trial, seed=0))
    noise = random.Random(canonical(trial)).gauss(0.0, 0.02) if trial.seed else 0.0
    level = random.Random(asked).uniform(0.5, 1.0) + noise
    curve = tuple(
        Report(
            e,
            {"accuracy": (at := level * (e + 1) / (e + 2)), "regret": -at, "loss": 1.0},
            seconds=1.0 + e,
        )
        for e in range(epochs_done + 1)
    )
    if fails:
        # As real ones: no two alike in their figures.
        text = f"NonFiniteLoss: the loss is nan at step {level:.3f} (recover.py:60)"
        return Outcome(Status.FAILED, error=text)
    kept = 1000 + int(hashlib.sha256(asked.encode()).hexdigest(), 16) % 8000
    return Outcome(
        Status.COMPLETED if epochs_done == trial.epochs else Status.STOPPED,
        epochs_done,
        epochs_done,
        {"val": curve[-1].metrics},
        Size(Parts(base=kept), Parts(base=kept), Parts(base=10_000), Parts(base=10_000), 8, 64),
        macs=kept,
        seconds=curve[-1].seconds,
        curve=curve,
        sha256="ab" * 32 if epochs_done or not trial.epochs else None,
    )


class FakeRunner:
    """Runs the trials of a driver as Tune would, ``concurrency`` at a time, in turn."""

    def __init__(self, config=None, events=(), breaks_after=None, concurrency=1, fails=None,
                 crowds=None, gpus=0.0, latency=lambda trial: None):  # fmt: skip
        self.config = config or usual()
        self.fails = fails or (lambda trial: False)
        # Whether a trial runs out of memory with so many others beside it.
        self.crowds = crowds or (lambda trial, others: False)
        self.log = ListLog(events, breaks_after)
        self.state = StudyState(self.log)
        self.said: list[str] = []
        opened = Opened(time.time(), "id", {}, bool(events))
        self.log.append(opened)
        self.state.apply(opened)
        budget = Budget(self.config.epochs)
        space = self.config.search_space()
        goals = aims(self.config.task, self.config.objectives)
        self.demands = Demands.of(self.config.task, self.config.constraints, self.state)
        met = self.demands.met
        self.search = StudySearch(
            self.config.searcher,
            space,
            goals,
            self.config.seed,
            violations=self.demands.violations,
        )
        self.search.replay(self.log)
        rule = self.config.confirm
        self.milestones = self.config.scheduler.milestones(budget)
        self.driver = Driver(
            Plan(
                space,
                self.config.seed,
                self.config.trials,
                concurrency,
                goals,
                lambda: Origin(Fingerprint("w", "d")),
                limits(self.config, goals, gpus, met),
                confirm=partial(wanted, goals, rule, self.config.seed, met=met) if rule else None,
                demands=self.demands,
                latency=latency,
            ),
            self.log,
            self.state,
            self.search,
            self.config.scheduler.start(budget),
            baselines(space, self.config.seed),
            (),
            self.said.append,
        )
        self.started = 0

    def run(self) -> FakeRunner:
        """Until the driver has no more."""
        running: dict[str, tuple[Trial, int]] = {}
        stops: dict[str, tuple[int, ...]] = {}
        finished = False
        while running or not finished or self.driver.unfinished:
            finished = finished and bool(running)
            while not finished:
                tune_id = f"t{self.started}"
                config = self.driver.next(tune_id)
                if config is None:
                    break
                if config == FINISHED:
                    finished = True
                    break
                self.started += 1
                stops[tune_id] = tuple(config[k] for k in ("until",) if k in config)
                running[tune_id] = (from_json(Trial, json.loads(config["trial"])), -1)
            for tune_id in list(running)[:1]:
                trial, done = running.pop(tune_id)
                ends = sorted((*self.milestones, *stops[tune_id]))
                upto = next((m for m in ends if m > done), trial.epochs)
                upto = 0 if self.demands.of_form and done < 0 else min(upto, trial.epochs)
                outcome = outcome_of(trial, upto, self.fails(trial))
                if self.crowds(trial, len(running)):
                    outcome = Outcome(Status.FAILED, error=f"{OUT_OF_MEMORY}: 9 GB (a.py:{done})")
                ended = upto == trial.epochs or outcome.status is Status.FAILED
                result = {
                    "outcome": json.dumps(to_json(outcome)),
                    "reports": json.dumps(to_json(outcome.curve[done + 1 :])),
                    "done": ended,
                }
                if self.driver.on_result(tune_id, result) and not ended:
                    running[tune_id] = (trial, upto)
        return self
