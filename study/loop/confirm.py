"""The front's points again with other seeds, and who is on the front in the end.

A search reports the luckiest of many runs. Here what is on the validation front or near it is run
with further seeds, round by round, and membership is decided on means over seeds. All of it is a
function of the study's state: a resumed study goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.fronts import non_dominated
from analysis.stats import mean_interval
from study.events import Frozen, Member
from study.fields.sections import Confirm
from study.keeping.retention import beats
from study.loop.racing import chances, filled, undecided
from study.objectives import Aim, final
from study.state import StudyState, TrialState
from trainables.record import NONE, Trial
from trainables.serial import digest

Met = Callable[[TrialState], bool]
"""Whether a trial meets what the study asks of every point."""


def anything(trial: TrialState) -> bool:
    """Nothing is asked."""
    return True


@dataclass(frozen=True)
class Replicate:
    """A trial to be run again: the same settings with another seed, trained as long.

    ``of`` is the id of the search's trial, ``until`` the epochs after which it ended.
    """

    trial: Trial
    of: str
    until: int


def front(state: StudyState, aims: Sequence[Aim], met: Met = anything) -> list[TrialState]:
    """The search's trials that none other beats in all objectives, smallest ratio first.

    Those whose artifact is there and that are ``met``, stopped ones as they are.
    """
    found = _measured(state, aims, met)
    on_front = non_dominated(np.array([losses for losses, _ in found]).reshape(-1, len(aims)))
    return [trial for (_, trial), keep in zip(found, on_front, strict=True) if keep]


def near(
    state: StudyState, aims: Sequence[Aim], within: float, met: Met = anything
) -> list[TrialState]:
    """The front, and what no point of it beats by more than ``within`` in the primary metric."""
    found, first = _measured(state, aims, met), aims[0].objective
    on_front = {trial.trial_id for trial in front(state, aims, met)}
    best = [losses for losses, trial in found if trial.trial_id in on_front]
    return [t for losses, t in found if not any(beats(b, losses, first, within) for b in best)]


def _measured(
    state: StudyState, aims: Sequence[Aim], met: Met
) -> list[tuple[tuple[float, ...], TrialState]]:
    found = [
        (losses, trial)
        for trial in state.searched
        if trial.record
        and state.has_file(trial)
        and (losses := final(aims, trial.record.outcome)) is not None
        and met(trial)
    ]
    return sorted(found, key=lambda pair: (-pair[0][1], pair[0][0], pair[1].number))


def seed_of(study: int, k: int) -> int:
    """The seed of every point's k-th run; the 0th is the search's own and has the study's."""
    return int(digest([str(study), "confirm", str(k)]), 16) % 2**31


def is_exact(trial: Trial) -> bool:
    """Whether no seed changes it: neither an adapter is drawn nor anything trained.

    Methods are given no generator (:meth:`compression.methods.Method.compress`): a trial's seed
    reaches initial adapters and training only.
    """
    return trial.epochs == 0 and all(rule.adapter == NONE for rule in trial.layers)


class Race:
    """The points that are looked at, what their seeds came to, and who is still in it."""

    def __init__(
        self,
        state: StudyState,
        aims: Sequence[Aim],
        rule: Confirm,
        study_seed: int,
        met: Met = anything,
    ) -> None:
        self.state, self.aims, self.rule = state, aims, rule
        self.seeds = [seed_of(study_seed, k) for k in range(1, rule.seeds)]
        self.points = near(state, aims, rule.within, met)
        found = {(str(t.params["of"]), t.trial.seed): t for t in state.confirmed}
        self.runs = [
            [p, *(found.get((p.trial_id, seed)) for seed in self.seeds)] for p in self.points
        ]

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """(points, seeds, objectives); NaN where a run has not ended, or without a file."""
        rows = [self._row(p, runs) for p, runs in zip(self.points, self.runs, strict=True)]
        return np.array(rows).reshape(len(rows), self.rule.seeds, len(self.aims))

    def _row(self, point: TrialState, runs: Iterable[TrialState | None]) -> list[tuple[float, ...]]:
        rows = [self._losses(run) for run in runs]
        return [rows[0]] * len(rows) if is_exact(point.trial) else rows

    def _losses(self, run: TrialState | None) -> tuple[float, ...]:
        losses = None
        if run and run.record and self.state.has_file(run):
            losses = final(self.aims, run.record.outcome)
        return losses or (np.nan,) * len(self.aims)

    @cached_property
    def standing(self) -> tuple[NDArray[np.bool_], list[tuple[int, int]]]:
        """Which points are still in it, and the runs (point, k) that its round lacks.

        A round is over when all points that are in it have run with its seed. A run that failed
        has ended: it is left out of the point's mean.
        """
        alive = np.ones(len(self.points), dtype=np.bool_)
        for k in range(1, self.rule.seeds) if self.points else ():
            lacking = [(int(i), k) for i in np.flatnonzero(alive) if self._lacks(int(i), k)]
            if lacking:
                return alive, lacking
            alive[alive] = undecided(self.losses[alive, : k + 1])
        return alive, []

    def _lacks(self, i: int, k: int) -> bool:
        return self.runs[i][k] is None and not is_exact(self.points[i].trial)

    def wanted(self) -> list[Replicate]:
        """What is to be run next, of one round."""
        return [self._replicate(self.points[i], self.seeds[k - 1]) for i, k in self.standing[1]]

    def _replicate(self, point: TrialState, seed: int) -> Replicate:
        until = point.record.outcome.epochs_done if point.record else 0
        return Replicate(replace(point.trial, seed=seed), point.trial_id, until)

    def decided(self) -> tuple[list[Member], list[Member]]:
        """Those on the front of means over seeds, and all that were looked at, by ratio."""
        if not self.points:
            return [], []
        alive, _ = self.standing
        means = filled(self.losses).mean(axis=1)
        on_front = alive.copy()
        on_front[alive] = non_dominated(means[alive])
        order = sorted(range(len(means)), key=lambda i: (-means[i][1], means[i][0], i))
        shares = chances(self.losses)
        everyone = {i: self._member(i, float(shares[i])) for i in order}
        return [everyone[i] for i in order if on_front[i]], list(everyone.values())

    def _member(self, i: int, probability: float) -> Member:
        aim = self.aims[0].objective
        ended = [
            (losses[0], run)
            for run in self.runs[i]
            if run is not None and not np.isnan((losses := self._losses(run))[0])
        ]
        values = [aim.value(loss) for loss, _ in ended]
        ships = min(ended, key=lambda pair: pair[0])[1]  # the first of the best
        at = mean_interval(values)
        return Member(
            ships.trial_id,
            tuple(run.trial_id for _, run in ended),
            float(np.mean(values)),
            at.lower if at else None,
            at.upper if at else None,
            probability,
        )


def wanted(
    aims: Sequence[Aim],
    rule: Confirm,
    study_seed: int,
    state: StudyState,
    met: Met = anything,
) -> list[Replicate]:
    """What is to be run again next and has no record yet; nothing when all is known."""
    return Race(state, aims, rule, study_seed, met).wanted()


def freeze(
    state: StudyState,
    aims: Sequence[Aim],
    at: float,
    rule: Confirm | None = None,
    study_seed: int = 0,
    met: Met = anything,
) -> Frozen:
    """Decide who is on the front: on means over seeds where points were run again."""
    if rule is None:
        chosen = front(state, aims, met)
        return Frozen(at, tuple(Member(t.trial_id, (t.trial_id,)) for t in chosen))
    members, candidates = Race(state, aims, rule, study_seed, met).decided()
    return Frozen(at, tuple(members), tuple(candidates))
