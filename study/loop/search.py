"""The searcher that Ray Tune asks: OptunaSearch with our own ask and tell.

Stock OptunaSearch tells stopped trials as COMPLETE with the value they had, so that the sampler
learns from unequal budgets, and leaves failed ones RUNNING for ever. Here a trial is told what is
true of it: completed with its values, stopped as PRUNED and failed as FAIL, both without values;
or, where the searcher's ``told`` says so, stopped with a prediction that is stated as one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from ray.tune.search import Searcher as TuneSearcher
from ray.tune.search.optuna import OptunaSearch

from study.events import SEARCH, Answered, Ended, Event, Inherited, Suggested
from study.loop.history import History
from study.loop.prediction import Gains
from study.objectives import Aim, final
from study.searchers import NOTHING, PREDICTED, Exhausted, Learner, Searcher, Turn
from study.searchers.seen import REACHED, reached
from study.space.space import Space
from trainables.record import Direction, Record, Scalar, Status
from trainables.serial import digest

FINISHED = TuneSearcher.FINISHED
_MODES = {Direction.MAXIMIZE: "max", Direction.MINIMIZE: "min"}
POINTS = 4  # of a curve, that a searcher learns of
PREDICTION = "predicted"  # the attribute of a trial that was told what it was predicted to reach

Config = Mapping[str, Any]
Flat = dict[str, Scalar]


class Repairs(Protocol):
    """Brings suggestions to what the study asks for."""

    def fits(self, params: Flat) -> bool:
        """Whether a suggestion keeps to it as it is."""

    def __call__(self, params: Flat) -> Flat:
        """A suggestion that does."""


class StudySearch(OptunaSearch):
    """Suggestions as a function of (study seed, number of the suggestion, what was told).

    ``starts`` are suggested first, in their order. ``repair`` makes of each drawn suggestion, and
    of starts that do not fit, one that does; it is that one that the searcher learns of.
    ``violations`` are a record's constraints by name, met where they are not above 0.
    ``source`` answers Tune's requests for a next trial; the driver sets it.
    """

    def __init__(
        self,
        searcher: Searcher,
        space: Space,
        aims: Sequence[Aim],
        seed: int,
        *,
        starts: Sequence[Mapping[str, Scalar]] = (),
        repair: Repairs | None = None,
        violations: Callable[[Record], Mapping[str, float]] | None = None,
    ) -> None:
        objectives = [aim.objective for aim in aims]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(
            space=space.define,
            metric=[o.name for o in objectives],
            mode=[_MODES[o.direction] for o in objectives],
            sampler=optuna.samplers.RandomSampler(),
        )
        self.source: Callable[[str], Config | None | str] = lambda tune_id: None
        self._searcher, self._study_space, self._aims = searcher, space, tuple(aims)
        self._study_seed, self._starts = seed, tuple(starts)
        self._repair, self._violations = repair, violations
        self._history = History(searcher, objectives)
        self._optuna = self._history.study
        self._ot_study: Any = self._optuna
        self._gains = Gains(aims)
        self._learns_of = searcher.told if isinstance(searcher, Learner) else None
        self._memo: dict[str, Any] = {}
        self._suggested = 0  # by this searcher; what was inherited is not counted
        self._records: dict[str, Record] = {}

    def ask(self, number: int) -> Flat | None:
        """The flat suggestion of this number; None if nothing is left to suggest."""
        start = self._starts[self._suggested] if self._suggested < len(self._starts) else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                trial = self._history.begin(number, self._turn(number), start)
            except Exhausted:
                self._history.withdraw(number)
                return None
            params = self._study_space.define(trial)
        # A start stands as it was meant, if it fits: what is left of its bytes is left on purpose.
        if self._repair is not None and (start is None or not self._repair.fits(params)):
            params = self._repair(params)
        self._settle(number, params)
        self._suggested += 1
        return params

    def tell(self, number: int, record: Record) -> None:
        """Say how the trial of this suggestion ended."""
        state, losses, stated = self._truth(record)
        values = losses and [
            aim.objective.value(loss) for aim, loss in zip(self._aims, losses, strict=True)
        ]
        violations = {}
        if self._violations and not record.outcome.failed:
            violations = dict(self._violations(record))
        attributes: dict[str, Any] = {PREDICTION: values} if stated else {}
        if self._searcher.learns_of_reports and (end := final(self._aims, record.outcome)):
            attributes[REACHED] = self._reached(record, end)
        self._history.finish(number, state, values, violations, attributes)
        if record.outcome.status is Status.COMPLETED:
            self._gains.add(record.outcome)

    def _reached(self, record: Record, losses: tuple[float, ...]) -> dict[str, Any]:
        """How far a trial came, for searchers that learn of that."""
        outcome, epochs = record.outcome, record.trial.epochs
        metric = self._aims[0]
        best, points = math.inf, [(1.0, losses[0])]
        if epochs:  # the best so far: that is what is kept
            points = []
            for report in outcome.curve:
                if (value := metric.at(report, outcome)) is not None:
                    best = min(best, metric.objective.loss(value))
                    points.append((report.epochs_done / epochs, best))
            points = points[:: -math.ceil(len(points) / POINTS)]
        return reached(losses, points, outcome.seconds or 0.0)

    def told(self, number: int) -> FrozenTrial | None:
        """A suggestion as the sampler knows it; None of what is no suggestion."""
        return self._history.told(number) if number in self._history else None

    def put(self, event: Event) -> None:
        """Take an event of this process or of an earlier one: :class:`study.loop.brief.View`."""
        if isinstance(event, Suggested):
            if event.role == SEARCH and event.number not in self._history:
                self._enter(event.number, event.params)
                self._suggested += 1
        elif isinstance(event, Inherited):
            self._enter(event.number, event.params)
            self.tell(event.number, event.record)
            self._records.setdefault(event.trial_id, event.record)
        elif isinstance(event, Ended):
            self._records.setdefault(event.trial_id, event.record)
            self._tell_if_ours(event.number, event.record)
        elif isinstance(event, Answered):
            self._tell_if_ours(event.number, self._records[event.trial_id])

    def replay(self, events: Iterable[Event]) -> None:
        """Bring back what earlier processes suggested and were told, in the order of the log."""
        for event in events:
            self.put(event)

    def _tell_if_ours(self, number: int, record: Record) -> None:
        if number in self._history:
            self.tell(number, record)

    def _turn(self, number: int) -> Turn:
        seed = int(digest([str(self._study_seed), str(number)]), 16) % 2**32
        drawn = max(0, self._suggested - len(self._starts))
        return Turn(drawn, seed, self._study_seed, self._study_space.params, self._memo)

    def _enter(self, number: int, params: Mapping[str, Scalar]) -> None:
        """A suggestion whose values are known."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            turn = self._turn(number) if self._searcher.remembers else None
            self._history.begin(number, turn)
        self._settle(number, params)

    def _settle(self, number: int, params: Mapping[str, Scalar]) -> None:
        asked = FixedTrial(dict(params))
        self._study_space.define(asked)
        self._history.settle(number, asked.params, asked.distributions)

    def _truth(self, record: Record) -> tuple[TrialState, tuple[float, ...] | None, bool]:
        """State and losses to be told, and whether these are a prediction."""
        outcome = record.outcome
        if outcome.failed:
            return TrialState.FAIL, None, False
        if outcome.status is Status.STOPPED:
            if self._learns_of == NOTHING:
                return TrialState.FAIL, None, False  # no sampler reads what failed
            losses = self._gains.predict(outcome) if self._learns_of == PREDICTED else None
            return (TrialState.COMPLETE if losses else TrialState.PRUNED), losses, bool(losses)
        losses = final(self._aims, outcome)
        # Without one of the objectives there is nothing to learn from.
        return (TrialState.COMPLETE if losses else TrialState.FAIL), losses, False

    def suggest(self, trial_id: str) -> Any:
        """A trial's config, None for not now, or FINISHED."""
        return self.source(trial_id)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Nothing: with several objectives Optuna takes no intermediate values."""

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the driver tells, from the record."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study log is the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study log is replayed."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default", **kwargs: Any) -> None:
        """Nothing: see :meth:`save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it holds; nobody reads that pickle."""
        return {}
