"""Other ways to search, each called through its own public methods, and ours beside them.

Stock ones are at their own defaults. `syne_tune` needs `pip install syne-tune==0.16.0`, which is
needed by nothing else here; where it is absent that arm is left out.
"""

from __future__ import annotations

import datetime
import importlib.util
import random
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.schedulers import TrialScheduler as RayScheduler
from ray.tune.search.optuna import OptunaSearch
from simulated import Arm, Drawn, Params, Result

from study.config import StudyConfig
from study.loop.search import StudySearch
from study.objectives import aims
from study.schedulers import SCHEDULERS, Budget, Scheduler, Standing
from study.searchers import SEARCHERS, Searcher
from trainables.record import (
    Fingerprint,
    Origin,
    Outcome,
    Parts,
    Record,
    Report,
    Scalar,
    Size,
    Status,
)

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", "Define-by-run function passed")  # it is slow, on a busy machine
PER_RANK = 20
METRIC, RATIO = "accuracy", "log2_ratio"


class Ours:
    """A searcher and a scheduler of the registries, joined as a study joins them."""

    def __init__(
        self, searcher: Searcher, scheduler: Scheduler, config: StudyConfig, seed: int
    ) -> None:
        self._config, self._seed, self._space = config, seed, config.search_space()
        goals = aims(config.task, config.objectives)
        self._search = StudySearch(searcher, self._space, goals, seed)
        budget = Budget(config.epochs, self._space.min_fidelity())
        self._rungs = scheduler.start(budget)

    def suggest(self, number: int) -> Params | None:
        return self._search.ask(number)

    def on_report(self, number: int, at: Standing) -> bool:
        return self._rungs.on_report(str(number), at)

    def on_end(self, number: int, result: Result) -> None:
        trial = self._space.to_trial(result.params, self._seed)
        origin = Origin(Fingerprint("simulated", "simulated"))
        outcome = outcome_of(result, self._config)
        self._search.tell(number, Record(trial, outcome, origin))


def outcome_of(result: Result, config: StudyConfig) -> Outcome:
    """What a worker would say of a simulated trial."""
    objective, name = config.task.objective, config.task.metric
    if result.losses is None:
        return Outcome(Status.FAILED, error="simulated: fails as its like was recorded to")
    curve = tuple(
        Report(at.epochs_done, {name: objective.value(at.losses[0])}, seconds=at.seconds)
        for at in result.reports
    )
    best = min(result.reports, key=lambda at: at.losses[0])
    own, dense = Parts(base=result.foretold.file_bytes), Parts(base=result.foretold.dense_bytes)
    return Outcome(
        result.status,
        result.reports[-1].epochs_done,
        best.epochs_done,
        {"val": {name: objective.value(best.losses[0])}},
        Size(own, own, dense, dense, 8 * own.base, 8 * dense.base),
        result.foretold.macs,
        result.reports[-1].seconds,
        curve=curve,
        sha256="0" * 64,
    )


class Unstopped:
    """An Optuna sampler over both objectives; every trial runs to its end."""

    def __init__(self, sampler: optuna.samplers.BaseSampler, config: StudyConfig) -> None:
        self._space = config.search_space()
        self._study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        self._asked: dict[int, optuna.trial.Trial] = {}

    def suggest(self, number: int) -> Params | None:
        self._asked[number] = self._study.ask()
        return self._space.define(self._asked[number])

    def on_report(self, number: int, at: Standing) -> bool:
        return True

    def on_end(self, number: int, result: Result) -> None:
        state = TrialState.FAIL if result.losses is None else TrialState.COMPLETE
        self._study.tell(self._asked.pop(number), result.losses, state)


class PerRank:
    """The published way: for each rank in turn a study of its own, of the metric alone.

    Optuna's TPE at its defaults, ``PER_RANK`` trials each, none stopped. After the last rank it
    goes on with the first.
    """

    def __init__(self, config: StudyConfig, seed: int) -> None:
        self._space = config.search_space()
        self._ranks = self._space.params["rank"].corners()
        self._studies = [
            optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed * 1_000 + place))
            for place in range(len(self._ranks))
        ]
        self._asked: dict[int, tuple[int, optuna.trial.Trial]] = {}

    def suggest(self, number: int) -> Params | None:
        place = number // PER_RANK % len(self._ranks)
        trial = self._studies[place].ask()
        self._asked[number] = place, trial
        return self._space.define(_Fixed(trial, "rank", self._ranks[place]))

    def on_report(self, number: int, at: Standing) -> bool:
        return True

    def on_end(self, number: int, result: Result) -> None:
        place, trial = self._asked.pop(number)
        if result.losses is None:
            self._studies[place].tell(trial, state=TrialState.FAIL)
        else:
            self._studies[place].tell(trial, result.losses[0])


class _Fixed:
    """A trial in which one knob is what it is."""

    def __init__(self, trial: optuna.trial.Trial, key: str, value: Scalar) -> None:
        self._trial, self._key, self._value = trial, key, value

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._value if name == self._key else self._trial.suggest_categorical(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> Any:
        found = self._trial.suggest_int
        return self._value if name == self._key else found(name, low, high, log=log)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._trial.suggest_float(name, low, high, log=log)


class Ray:
    """Ray's OptunaSearch over both objectives, and its asynchronous halving on the metric.

    As its controller calls them: a stopped trial is told with the last result that it had.
    """

    def __init__(self, config: StudyConfig, seed: int) -> None:
        np.random.seed(seed)  # the scheduler draws brackets from it
        space, self._epochs = config.search_space(), config.epochs
        self._flat: Params = {}

        def define(trial: Any) -> None:
            self._flat = space.define(trial)  # Ray's own answer takes keys with a slash apart

        modes = ["min", "max"]
        self._search = OptunaSearch(define, metric=[METRIC, RATIO], mode=modes, seed=seed)
        self._scheduler = AsyncHyperBandScheduler(
            time_attr="epochs_done", metric=METRIC, mode="min", max_t=self._epochs
        )
        self._results: dict[int, dict[str, float]] = {}
        self._stopped: set[int] = set()

    def suggest(self, number: int) -> Params | None:
        self._search.suggest(str(number))
        self._scheduler.on_trial_add(None, self._trial(number))
        return dict(self._flat)

    def on_report(self, number: int, at: Standing) -> bool:
        self._results[number] = self._result(at)
        decision = self._scheduler.on_trial_result(None, self._trial(number), self._results[number])
        if decision == RayScheduler.STOP:
            self._stopped.add(number)
        return bool(decision != RayScheduler.STOP)

    def on_end(self, number: int, result: Result) -> None:
        if result.losses is None:
            self._scheduler.on_trial_remove(None, self._trial(number))
            return self._search.on_trial_complete(str(number), error=True)
        last = self._result(result.reports[-1])
        if number in self._results and number not in self._stopped:
            self._scheduler.on_trial_complete(None, self._trial(number), last)
        self._search.on_trial_complete(str(number), last)

    def _trial(self, number: int) -> Any:
        return types.SimpleNamespace(trial_id=str(number))

    def _result(self, at: Standing) -> dict[str, float]:
        # The metric as a loss: whatever the task's direction.
        return {"epochs_done": at.epochs_done, METRIC: at.losses[0], RATIO: -at.losses[1]}


class SyneTune:
    """Syne Tune's MOASHA, with random settings, as it has no others, from the same space."""

    def __init__(self, config: StudyConfig, seed: int) -> None:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.optimizer.scheduler import SchedulerDecision
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        np.random.seed(seed)
        random.seed(seed)
        space, draws = config.search_space(), Drawn(seed)
        domain = types.SimpleNamespace(sample=lambda: space.define(draws))
        self._moasha = MOASHA(
            {"params": domain},
            metrics=["loss", "size"],
            time_attr="epochs_done",
            max_t=config.epochs,
            random_seed=seed,
        )
        self._new, self._stop = Trial, SchedulerDecision.STOP
        self._trials: dict[int, Any] = {}
        self._last: dict[int, dict[str, float]] = {}

    def suggest(self, number: int) -> Params | None:
        suggestion = self._moasha.suggest()
        at = datetime.datetime(2000, 1, 1)
        self._trials[number] = self._new(number, suggestion.config, at)
        self._moasha.on_trial_add(self._trials[number])
        return dict(suggestion.config["params"])

    def on_report(self, number: int, at: Standing) -> bool:
        self._last[number] = {
            "epochs_done": at.epochs_done,
            "loss": at.losses[0],
            "size": at.losses[1],
        }
        if at.epochs_done == 0:
            return True  # its time begins at 1
        decision = self._moasha.on_trial_result(self._trials[number], self._last[number])
        if decision == self._stop:
            self._moasha.on_trial_remove(self._trials.pop(number))
        return bool(decision != self._stop)

    def on_end(self, number: int, result: Result) -> None:
        if (trial := self._trials.pop(number, None)) is None:
            return
        if result.losses is None:
            self._moasha.on_trial_error(trial)
        elif number in self._last:
            self._moasha.on_trial_complete(trial, self._last[number])
        else:  # answered: nothing was run
            self._moasha.on_trial_remove(trial)


RIVALS: dict[str, Callable[[StudyConfig, int], Arm]] = {
    "per_rank": PerRank,
    "nsga2": lambda config, seed: Unstopped(optuna.samplers.NSGAIISampler(seed=seed), config),
    "motpe": lambda config, seed: Unstopped(optuna.samplers.TPESampler(seed=seed), config),
    "ray": Ray,
    "syne_tune": SyneTune,
}
MISSING = {"syne_tune"} if importlib.util.find_spec("syne_tune") is None else set()
"""Rivals that are not installed."""


def plugin(registry: Any, text: str) -> Any:
    """A plugin as ``NAME`` or ``NAME:KNOB=VALUE,KNOB=VALUE``.

    Raises:
        InvalidSetting: there is no such plugin, or a knob is refused.
    """
    name, _, settings = text.partition(":")
    pairs = [pair.partition("=") for pair in settings.split(",") if pair]
    return registry.build(name, {key: yaml.safe_load(value) for key, _, value in pairs})


def arm(text: str, config: StudyConfig, seed: int) -> Arm:
    """A rival by its name, or ours as ``SEARCHER+SCHEDULER``, each as :func:`plugin` has it."""
    if text in RIVALS:
        return RIVALS[text](config, seed)
    searcher, _, scheduler = text.partition("+")
    return Ours(plugin(SEARCHERS, searcher), plugin(SCHEDULERS, scheduler), config, seed)
