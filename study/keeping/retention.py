"""Which artifacts are kept: those of the front, of what is near it, and of the baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.fronts import non_dominated
from study.constraints import NO_DEMANDS, Demands
from study.events import SEARCH, Answered, Ended, Event, Retried, Started
from study.keeping.quota import Quota
from study.objectives import Aim, final
from study.state import StudyState, TrialState
from study.store.files import FOLDER, artifact, probe
from study.store.storage import Storage
from trainables.record import Objective


def beats(
    other: Sequence[float], losses: Sequence[float], primary: Objective, margin: float
) -> bool:
    """Whether the other is no worse in any objective, in the first better by more than ``margin``.

    Both are losses, the primary metric's first. The margin is points of a fraction, else a share of
    the better one's value.
    """
    allowed = primary.allowance(margin, primary.value(other[0]))
    no_worse = all(a <= b for a, b in zip(other[1:], losses[1:], strict=True))
    return no_worse and losses[0] > other[0] + allowed


def missing(state: StudyState, storage: Storage) -> set[str]:
    """Trials with a record of a file that is not there, or without its logits.

    Deleted under rules that a resumed study need not have kept: margin, constraints, objectives.
    """
    there = {f"{FOLDER}/{name}" for name in storage.list(FOLDER)}
    filed = {t.trial_id for t in state.ended if t.record and t.record.outcome.sha256}
    return {i for i in filed if not {artifact(i), probe(i)} <= there}


class Retention:
    """Deletes an artifact as soon as a trial that ends makes it useless.

    A trial is useless when another beats it by more than ``margin``: see :func:`beats`; what it
    breaks of the constraints counts as a loss, too. Trials that end later can only make it more so:
    what goes is never wanted again. Files of a point's runs with other seeds stay, and those of a
    front that was frozen before, until there is another.

    With a ``quota`` points near the front go, too, the farthest from it first, when it is exceeded:
    see :meth:`needed` for what stays.
    """

    def __init__(
        self,
        storage: Storage,
        state: StudyState,
        aims: Sequence[Aim],
        margin: float,
        demands: Demands = NO_DEMANDS,
        quota: Quota | None = None,
    ) -> None:
        self.storage, self.aims, self.margin = storage, aims, margin
        self.demands, self.quota = demands, quota
        self.kept: dict[str, tuple[float, ...]] = {}
        self._state = state
        for trial in state.searched:
            self._take(trial)
        self._fit()

    def put(self, event: Event) -> None:
        """See :class:`study.loop.brief.View`."""
        if isinstance(event, Ended | Answered):
            self._take(self._state.trials[event.number])
        if isinstance(event, Ended) and event.record.outcome.sha256 is None:
            self._drop([event.trial_id])  # what it shelved before it failed
        if isinstance(event, Started | Retried | Ended | Answered):
            self._fit()

    def needed(self) -> set[str]:
        """Trials whose artifacts stay in any case.

        The front as it is, the one that was frozen, the runs of their points with other seeds, the
        baselines, and trials that have not ended.
        """
        frozen = self._state.frozen.members if self._state.frozen else ()
        points = self.front() | {member.trial_id for member in frozen}
        again = {t.trial_id for t in self._state.confirmed if t.params.get("of") in points}
        runs = {trial_id for member in frozen for trial_id in member.replicates}
        baselines = {trial.trial_id for trial in self._state.baselines.values()}
        return points | again | runs | baselines | self._unended()

    def front(self) -> set[str]:
        """Of what is kept that which nothing else beats in all objectives."""
        if not self.kept:
            return set()
        on_front = non_dominated(np.array(list(self.kept.values())))
        return {i for i, keep in zip(self.kept, on_front, strict=True) if keep}

    def _unended(self) -> set[str]:
        return {trial.trial_id for trial in self._state.interrupted()}

    def _fit(self) -> None:
        if self.quota is None:
            return
        gone = self.quota.fit(self.needed(), self._unended(), self._groups())
        self._state.gone |= gone
        for trial_id in gone:
            self.kept.pop(trial_id, None)

    def _groups(self) -> list[list[str]]:
        """What is kept, each with its runs of other seeds, the farthest from the front first."""
        runs: dict[str, list[str]] = {}
        for trial in self._state.confirmed:
            runs.setdefault(str(trial.params.get("of")), []).append(trial.trial_id)
        order = sorted(self.kept, key=lambda trial_id: -self._behind(self.kept[trial_id]))
        return [[*runs.get(trial_id, ()), trial_id] for trial_id in order]

    def _behind(self, losses: tuple[float, ...]) -> float:
        """By how much the primary metric is better in what is no worse otherwise, as the margin."""
        objective = self.aims[0].objective
        gaps = [
            (losses[0] - other[0]) / (objective.allowance(1.0, objective.value(other[0])) or 1.0)
            for other in self.kept.values()
            if all(a <= b for a, b in zip(other[1:], losses[1:], strict=True))
        ]
        return max(gaps, default=0.0)

    def _take(self, trial: TrialState) -> None:
        record = trial.record
        if trial.role != SEARCH or record is None or not self._state.has_file(trial):
            return
        if (losses := final(self.aims, record.outcome)) is not None:
            self.admit(trial.trial_id, losses + self.demands.excess(record))

    def admit(self, trial_id: str, losses: tuple[float, ...]) -> None:
        """Keep the files of a trial if they are of use, and delete those no longer so."""
        if any(self._useless(losses, other) for other in self.kept.values()):
            self._drop([trial_id])
            return
        self._drop([i for i, other in self.kept.items() if self._useless(other, losses)])
        self.kept[trial_id] = losses

    def _useless(self, losses: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return beats(other, losses, self.aims[0].objective, self.margin)

    def _drop(self, trial_ids: Sequence[str]) -> None:
        frozen = self._state.frozen.members if self._state.frozen else ()
        needed = {trial.trial_id for trial in self._state.baselines.values()}
        needed |= {i for member in frozen for i in (member.trial_id, *member.replicates)}
        for trial_id in trial_ids:
            self.kept.pop(trial_id, None)
            if trial_id in needed:
                continue
            self.storage.discard(artifact(trial_id))
            self.storage.discard(probe(trial_id))
