"""The searcher that Ray Tune asks: OptunaSearch with our own ask and tell.

Stock OptunaSearch tells stopped trials as COMPLETE with the value they had, so that the sampler
learns from unequal budgets, and leaves failed ones RUNNING for ever. Here a trial is told what is
true of it: completed with its values, stopped as PRUNED and failed as FAIL, both without values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher as TuneSearcher
from ray.tune.search.optuna import OptunaSearch

from study.searchers import Exhausted, Searcher
from study.space import Space
from study.state import TrialState as Suggestion
from trainables.record import Direction, Objective, Record, Scalar, Status
from trainables.serial import digest

FINISHED = TuneSearcher.FINISHED
_MODES = {Direction.MAXIMIZE: "max", Direction.MINIMIZE: "min"}
_TOLD = {Status.STOPPED: TrialState.PRUNED, Status.FAILED: TrialState.FAIL}
_LACKING = TrialState.FAIL  # an objective was not measured

Config = Mapping[str, Any]
Values = Callable[[Record], list[float] | None]


class StudySearch(OptunaSearch):
    """Suggestions as a function of (study seed, number of the suggestion, what was told).

    ``source`` answers Tune's requests for a next trial; the driver sets it.
    """

    def __init__(
        self,
        searcher: Searcher,
        space: Space,
        objectives: Iterable[Objective],
        values: Values,
        seed: int,
    ) -> None:
        objectives = tuple(objectives)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(
            space=space.define,
            metric=[o.name for o in objectives],
            mode=[_MODES[o.direction] for o in objectives],
            sampler=searcher.sampler(seed),
        )
        self.source: Callable[[str], Config | None | str] = lambda tune_id: None
        self._searcher, self._study_space = searcher, space
        self._values, self._study_seed = values, seed
        # Number of a suggestion to Optuna's own number of it.
        self._asked: dict[int, int] = {}
        self._optuna: optuna.Study = cast(optuna.Study, self._ot_study)

    def ask(self, number: int) -> dict[str, Scalar] | None:
        """The flat suggestion of this number; None if nothing is left to suggest."""
        seed = int(digest([str(self._study_seed), str(number)]), 16) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._optuna.sampler = self._searcher.sampler(seed)
            trial = self._optuna.ask()
            try:
                params = self._study_space.define(trial)
            except Exhausted:
                self._optuna.tell(trial, state=TrialState.FAIL)
                return None
        self._asked[number] = trial.number
        return params

    def tell(self, number: int, record: Record) -> None:
        """Say how the trial of this suggestion ended."""
        state, values = self._truth(record)
        self._optuna.tell(self._asked.pop(number), values, state)

    def replay(self, suggestions: Iterable[Suggestion]) -> None:
        """Bring back the suggestions of an earlier process, in the order of their numbers."""
        for suggestion in suggestions:
            fixed = optuna.trial.FixedTrial(dict(suggestion.params))
            self._study_space.define(fixed)
            record = suggestion.record
            state, values = TrialState.RUNNING, None
            if record is not None:
                state, values = self._truth(record)
            self._optuna.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    values=values,
                    params=fixed.params,
                    distributions=fixed.distributions,
                )
            )
            if record is None:
                self._asked[suggestion.number] = len(self._optuna.trials) - 1

    def _truth(self, record: Record) -> tuple[TrialState, list[float] | None]:
        state = _TOLD.get(record.outcome.status, TrialState.COMPLETE)
        values = self._values(record) if state is TrialState.COMPLETE else None
        return (state, values) if values or state is not TrialState.COMPLETE else (_LACKING, None)

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
