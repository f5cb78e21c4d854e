"""A study's loop without Ray: trials whose curves are a function of what was asked."""

from __future__ import annotations

import hashlib
import json
import random
import time
from dataclasses import dataclass, field, replace
from functools import cache, partial

from study.config import StudyConfig, parse_config
from study.constraints import Demands
from study.events import Event, Opened
from study.loop.brief import Plan
from study.loop.confirm import wanted
from study.loop.driver import FINISHED, Driver
from study.loop.limits import limits
from study.loop.search import StudySearch
from study.objectives import aims
from study.schedulers import Budget
from study.space.baselines import baselines
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


@dataclass
class Running:
    """A trial on a worker."""

    trial: Trial
    start: int
    done: int = -1
    ends: list[int] = field(default_factory=list)
    restores: int | None = None


class FakeRunner:
    """Runs the trials of a driver as Tune would, ``concurrency`` at a time, in turn."""

    def __init__(self, config=None, events=(), breaks_after=None, concurrency=1, fails=None,
                 crowds=None, gpus=0.0, latency=lambda trial: None, loses=None,
                 checkpoints=None, keeps=True):  # fmt: skip
        self.config = config or usual()
        self.fails = fails or (lambda trial: False)
        # Whether a trial runs out of memory with so many others beside it.
        self.crowds = crowds or (lambda trial, others: False)
        # Why the worker of a trial is lost in its so-manieth start, before it says what it came to
        # after so many epochs; and after how many its state is kept, by trial: a shelf.
        self.loses = loses or (lambda trial, start, epochs: None)
        self.checkpoints: dict[str, int] = {} if checkpoints is None else checkpoints
        self.keeps = keeps
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
                max_retries=self.config.max_retries,
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
        running: dict[str, Running] = {}
        finished = False
        while running or not finished:
            while not finished:
                tune_id = f"t{self.started}"
                config = self.driver.next(tune_id)
                if config is None:
                    break
                if config == FINISHED:
                    finished = True
                    break
                self.started += 1
                running[tune_id] = self.began(config)
            for tune_id in list(running)[:1]:
                if not self.step(tune_id, running[tune_id], len(running) - 1):
                    del running[tune_id]
        return self

    def began(self, config) -> Running:
        """A worker has taken up a trial."""
        trial = from_json(Trial, json.loads(config["trial"]))
        one = Running(trial, self.state.trials[config["number"]].starts)
        one.ends = sorted((*self.milestones, *(config[k] for k in ("until",) if k in config)))
        if config["begun"]:
            one.restores = self.checkpoints.get(canonical(trial))
        return one

    def next_stop(self, one: Running) -> int:
        """The epoch after which a trial reports next."""
        if one.restores is not None:
            return one.restores
        if self.demands.of_form and one.done < 0:
            return 0
        return min(next((m for m in one.ends if m > one.done), one.trial.epochs), one.trial.epochs)

    def step(self, tune_id: str, one: Running, others: int) -> bool:
        """Run a trial to where it may be stopped; whether it goes on."""
        trial, restored, done, upto = one.trial, one.restores, one.done, self.next_stop(one)
        one.restores = None
        outcome = outcome_of(trial, upto, self.fails(trial))
        if self.crowds(trial, others):
            outcome = Outcome(Status.FAILED, error=f"{OUT_OF_MEMORY}: 9 GB (a.py:{done})")
        ended = (upto == trial.epochs and restored is None) or outcome.failed
        if not ended and restored is None and self.keeps:
            self.checkpoints[canonical(trial)] = upto
        if (loss := self.loses(trial, one.start, upto)) is not None:
            self.driver.on_lost(tune_id, loss)
            return False
        result = {
            "outcome": json.dumps(to_json(outcome)),
            "reports": json.dumps(to_json(outcome.curve[done + 1 :])),
            "restored": -1 if restored is None else restored,
            "done": ended,
        }
        one.done = upto
        return self.driver.on_result(tune_id, result) and not ended
