"""What the searchers are told of a study: an Optuna study in memory, rebuilt from the study log."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.searchers import Searcher, Turn
from study.searchers.recall import Recall
from trainables.record import Direction, Objective, Scalar


class _Memory(InMemoryStorage):
    def put(self, trial: FrozenTrial) -> None:
        """Replace what is kept under the trial's own id."""
        self._set_trial(trial._trial_id, trial)


class _Seen:
    """An Optuna study of which a sampler reads only some trials, those of before its suggestion."""

    def __init__(self, study: optuna.Study, sampler: Any, trials: Sequence[FrozenTrial]) -> None:
        self.sampler = sampler
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See ``optuna.Study``."""
        trials = [t for t in self._trials if states is None or t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return self.get_trials(deepcopy, states)


class History:
    """The trials that a sampler reads, each under the number of its suggestion.

    A trial holds the values that are run, whoever chose them, and nothing of how they were drawn:
    what an earlier process suggested looks like what this one did. Where a searcher reads so many
    ended trials at most, it reads as many of those that run: the latest, which were suggested from
    nearly the same results as the next one, and so are what it is to keep away from.
    """

    def __init__(self, searcher: Searcher, objectives: Sequence[Objective]) -> None:
        self._searcher, self._storage = searcher, _Memory()
        self.study = optuna.create_study(
            storage=self._storage,
            directions=[o.direction.value for o in objectives],
            sampler=optuna.samplers.RandomSampler(),  # never asked: each suggestion brings its own
        )
        self._open: dict[int, optuna.Trial] = {}
        self._ids: dict[int, int] = {}
        self._known: dict[str, BaseDistribution] = {}
        signs = [-1.0 if o.direction is Direction.MAXIMIZE else 1.0 for o in objectives]
        self._recall = None if searcher.memory is None else Recall(searcher.memory, signs)

    def begin(
        self, number: int, turn: Turn | None, fixed: Mapping[str, Scalar] | None = None
    ) -> optuna.Trial:
        """A running trial to draw values from, but for those that are ``fixed``.

        Without a turn nothing is drawn.

        Raises:
            Exhausted: nothing is left to suggest; :meth:`withdraw` it.
        """
        seen: Any = self.study
        if turn is not None:
            seen = _Seen(self.study, self._searcher.sampler(turn), self._readable(turn.seed))
        blank = create_trial(
            state=TrialState.RUNNING,
            system_attrs={"fixed_params": dict(fixed)} if fixed else {},
        )
        trial_id = self._storage.create_new_trial(self.study._study_id, blank)
        trial = optuna.Trial(cast(optuna.Study, seen), trial_id)
        self._open[number], self._ids[number] = trial, trial_id
        if turn is not None and self._searcher.remembers:
            _ = trial.relative_params  # what it leaves behind, it leaves now
        return trial

    def settle(
        self,
        number: int,
        params: Mapping[str, Scalar],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        """The values that the trial is run with."""
        trial = copy.copy(self._storage.get_trial(self._ids[number]))
        trial.params = {key: params[key] for key in distributions}
        # One object a knob, not one a trial.
        trial.distributions = {k: self._known.setdefault(k, d) for k, d in distributions.items()}
        kept = trial.system_attrs if self._searcher.remembers else {}
        trial.system_attrs = {k: v for k, v in kept.items() if k != "fixed_params"}
        self._storage.put(trial)

    def withdraw(self, number: int) -> None:
        """There was nothing to draw."""
        self.study.tell(self._open.pop(number), state=TrialState.FAIL)
        del self._ids[number]

    def finish(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        violations: Mapping[str, float] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Say how the trial ended."""
        trial = self._open.pop(number)
        for key, value in (violations or {}).items():
            trial.set_constraint(key, value)
        for key, value in (attributes or {}).items():
            trial.set_user_attr(key, value)
        self.study.tell(trial, values, state)
        if self._recall is not None:
            self._recall.add(self.told(number))

    def told(self, number: int) -> FrozenTrial:
        """A suggestion as the samplers know it."""
        return self._storage.get_trial(self._ids[number])

    def __contains__(self, number: object) -> bool:
        return number in self._ids

    def _readable(self, seed: int) -> Sequence[FrozenTrial]:
        if self._recall is None:
            return self._storage.get_all_trials(self.study._study_id, deepcopy=False)
        latest = islice(reversed(self._open), self._searcher.memory)
        running = [self.told(number) for number in latest]
        return sorted([*self._recall.choose(seed), *running], key=lambda trial: trial.number)
