"""The front's points again with other seeds, and who is on the front in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fronts import non_dominated
from study.events import Frozen, Member
from study.objectives import Aim, final
from study.state import StudyState, TrialState
from trainables.record import Trial


@dataclass(frozen=True)
class Replicate:
    """A trial to be run again: the same settings with another seed, trained as long.

    ``of`` is the id of the search's trial, ``until`` the epochs after which it ended.
    """

    trial: Trial
    of: str
    until: int


def front(state: StudyState, aims: Sequence[Aim]) -> list[TrialState]:
    """The search's trials that none other beats in all objectives, smallest ratio first.

    Those that have an artifact, stopped ones as they are.
    """
    found = [
        (losses, trial)
        for trial in state.searched
        if trial.record
        and trial.record.outcome.sha256
        and (losses := final(aims, trial.record.outcome)) is not None
    ]
    mask = non_dominated(np.array([losses for losses, _ in found]).reshape(-1, len(aims)))
    kept = [pair for pair, keep in zip(found, mask, strict=True) if keep]
    kept.sort(key=lambda pair: (-pair[0][1], pair[0][0], pair[1].number))
    return [trial for _, trial in kept]


def freeze(state: StudyState, aims: Sequence[Aim], at: float) -> Frozen:
    """Decide who is on the front."""
    members = tuple(Member(t.trial_id, (t.trial_id,)) for t in front(state, aims))
    return Frozen(at, members)
