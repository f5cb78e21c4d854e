"""Which artifacts are kept: those of the front, of what is near it, and of the baselines."""

from __future__ import annotations

from collections.abc import Sequence

from study.constraints import NO_DEMANDS, Demands
from study.events import SEARCH, Answered, Ended, Event
from study.files import FOLDER, artifact, probe
from study.objectives import Aim, final
from study.state import StudyState, TrialState
from study.storage import Storage
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
    """

    def __init__(
        self,
        storage: Storage,
        state: StudyState,
        aims: Sequence[Aim],
        margin: float,
        demands: Demands = NO_DEMANDS,
    ) -> None:
        self.storage, self.aims, self.margin = storage, aims, margin
        self.demands = demands
        self.kept: dict[str, tuple[float, ...]] = {}
        self._state = state
        for trial in state.searched:
            self._take(trial)

    def put(self, event: Event) -> None:
        """See :class:`study.brief.View`."""
        if isinstance(event, Ended | Answered):
            self._take(self._state.trials[event.number])

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
        needed |= {member.trial_id for member in frozen}
        for trial_id in trial_ids:
            self.kept.pop(trial_id, None)
            if trial_id in needed:
                continue
            self.storage.delete(artifact(trial_id))
            self.storage.delete(probe(trial_id))
