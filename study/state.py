"""What is known of a study after the events so far. Pure: no clock, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import singledispatchmethod

from study.errors import StudyError
from study.events import (
    CONFIRM,
    SEARCH,
    Answered,
    Cause,
    Closed,
    Ended,
    Event,
    Frozen,
    Inherited,
    Opened,
    Reported,
    Retried,
    Started,
    Suggested,
    Verified,
)
from study.trial_state import ENDED, OPEN, Phase, TrialState
from trainables.record import Record, Verification
from trainables.serial import digest

__all__ = ["OPEN", "Phase", "StateError", "StudyState", "TrialState"]


class StateError(StudyError, ValueError):
    """Events that contradict each other, e.g. the end of a trial that nobody suggested."""


class StudyState:
    """The view of a study that its events add up to."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.trials: dict[int, TrialState] = {}
        self.baselines: dict[str, TrialState] = {}  # by role
        self.next_number = 0  # of a trial that is no baseline
        self.verifications: dict[str, Verification] = {}
        self.opened: list[Opened] = []
        self.closed: list[Closed] = []
        self.frozen: Frozen | None = None
        self.finished: list[TrialState] = []  # with a record of their own, in the order of events
        self.gone: set[str] = set()  # trials whose file was deleted, before this session began
        self.ever_reported = False  # by any trial that was run here
        self.worked_seconds = 0.0  # of trials, as they say; those that were interrupted included
        self._by_id: dict[str, Record] = {}
        self._phases: Counter[tuple[str, Phase]] = Counter()
        self._spent_before = 0.0
        self._session: tuple[float, float] | None = None
        for event in events:
            self.apply(event)

    @singledispatchmethod
    def apply(self, event: Event) -> None:
        """Take one event in.

        Raises:
            StateError: the event contradicts those before it.
        """
        raise StateError(f"not an event: {event!r}")

    @apply.register
    def _(self, event: Opened) -> None:
        self._spent_before, self._session = self.spent_seconds, (event.at, event.at)
        self.opened.append(event)
        for trial in self.trials.values():
            if trial.phase is Phase.RUNNING:  # whoever ran it is gone
                self._move(trial, Phase.WAITING)

    @apply.register
    def _(self, event: Suggested) -> None:
        self._enter(TrialState(event.number, event.role, event.params, event.trial, event.trial_id))

    @apply.register
    def _(self, event: Inherited) -> None:
        record = event.record
        at = self.opened[-1].at if self.opened else None
        trial = TrialState(
            event.number,
            SEARCH,
            event.params,
            record.trial,
            event.trial_id,
            Phase.INHERITED,
            reports=list(record.outcome.curve),
            record=record,
            started_at=at,
            ended_at=at,
            source=event.source,
        )
        self._enter(trial)
        self.finished.append(trial)
        self._by_id.setdefault(event.trial_id, record)

    @apply.register
    def _(self, event: Answered) -> None:
        trial = self._open_trial(event.number, event.trial_id, "answered")
        if event.trial_id not in self._by_id:
            raise StateError(f"trial {event.number} was answered from {event.trial_id}, not ended")
        self._move(trial, Phase.ANSWERED)
        trial.record = self._by_id[event.trial_id]

    @apply.register
    def _(self, event: Started) -> None:
        trial = self._open_trial(event.number, event.trial_id, "started")
        self._move(trial, Phase.RUNNING)
        trial.starts, trial.started_at = trial.starts + 1, event.at
        self._touch(event.at)

    @apply.register
    def _(self, event: Reported) -> None:
        trial = self._open_trial(event.number, event.trial_id, "reported")
        trial.rewind(event.report.epochs_done)
        self._work(trial, event.report.seconds)
        trial.take(event.report)
        self.ever_reported = True

    @apply.register
    def _(self, event: Retried) -> None:
        trial = self._open_trial(event.number, event.trial_id, "retried")
        if event.cause is Cause.MEMORY:
            if trial.alone:
                raise StateError(f"trial {event.number} was retried twice")
            trial.alone = True
        self._move(trial, Phase.WAITING)
        trial.setbacks.append(event)
        self._touch(event.at)

    @apply.register
    def _(self, event: Ended) -> None:
        trial = self._open_trial(event.number, event.trial_id, "ended")
        self._work(trial, event.record.outcome.seconds)
        self.finished.append(trial)
        outcome = event.record.outcome
        self._move(trial, Phase(outcome.status.value))
        trial.record, trial.ended_at = event.record, event.at
        self.gone.discard(event.trial_id)
        if trial.reports == list(outcome.curve):  # one copy is enough
            trial.reports = list(outcome.curve)
        if (known := self._by_id.get(event.trial_id)) is None or known.outcome.sha256 is None:
            self._by_id[event.trial_id] = event.record
        self._touch(event.at)

    @apply.register
    def _(self, event: Frozen) -> None:
        self.frozen = event

    @apply.register
    def _(self, event: Verified) -> None:
        self.verifications[event.verification.trial_id] = event.verification

    @apply.register
    def _(self, event: Closed) -> None:
        self.closed.append(event)
        self._spent_before += event.spent_seconds
        self._session = None

    @property
    def study_id(self) -> str:
        """Tells this study from every other, also from one of the same name and identity."""
        if not self.opened:
            raise StateError("the study was never opened")
        return digest([self.opened[0].identity, repr(self.opened[0].at)])

    @property
    def ended(self) -> list[TrialState]:
        """Trials that were run to an end, in order of their numbers (baselines first)."""
        return [t for t in self._sorted() if t.record and t.phase is not Phase.ANSWERED]

    @property
    def searched(self) -> list[TrialState]:
        """The search's trials with a record, each setting once.

        A suggestion that equals a baseline is answered from that one's record, and is as much a
        result of the search as any other.
        """
        first: dict[str, TrialState] = {}
        for trial in (t for t in self._sorted() if t.role == SEARCH and t.record):
            known = first.setdefault(trial.trial_id, trial)
            if known.record and not known.record.outcome.sha256:  # a later one may have a file
                first[trial.trial_id] = trial
        return list(first.values())

    @property
    def confirmed(self) -> list[TrialState]:
        """Points of the front, run again with other seeds, that have a record."""
        return [t for t in self._sorted() if t.role == CONFIRM and t.record]

    @property
    def records(self) -> list[Record]:
        """Records of :attr:`ended`."""
        return [t.record for t in self.ended if t.record]

    @property
    def spent_seconds(self) -> float:
        """Time worked on in all sessions; one that was killed counts up to its last event."""
        return self.spent_until(self._session[1]) if self._session else self._spent_before

    def spent_until(self, at: float) -> float:
        """The same up to a moment of the session that goes on, whatever happened in it last."""
        began = self._session[0] if self._session else at
        return self._spent_before + max(0.0, at - began)

    def record_of(self, trial_id: str) -> Record | None:
        """The record that a duplicate of ``trial_id`` is answered with."""
        return self._by_id.get(trial_id)

    def revise(self, revised: Callable[[Record], Record]) -> None:
        """Put another record in the place of each."""
        self._by_id = {i: revised(record) for i, record in self._by_id.items()}
        for trial in self.trials.values():
            trial.record = trial.record and revised(trial.record)

    def has_file(self, trial: TrialState) -> bool:
        """Whether its file can be read: it was shelved, and is not :attr:`gone`."""
        shelved = trial.record is not None and trial.record.outcome.sha256 is not None
        return shelved and trial.trial_id not in self.gone

    def baseline(self, role: str) -> TrialState | None:
        """The baseline of this role, once it was suggested."""
        return self.baselines.get(role)

    def interrupted(self) -> list[TrialState]:
        """Suggested, but neither ended nor answered: what a resumed study runs again."""
        return [t for t in self._sorted() if t.phase in OPEN]

    def counts(self, role: str = SEARCH) -> dict[str, int]:
        """Trials of a role by phase (every phase is a key), and by two groups of them.

        ``ran`` are those that ended in this study, ``done`` all but the open ones.
        """
        found = {phase: self._phases[role, phase] for phase in Phase}
        return {phase.value: n for phase, n in found.items()} | {
            "ran": sum(found[phase] for phase in ENDED),
            "done": sum(n for phase, n in found.items() if phase not in OPEN),
        }

    def _sorted(self) -> list[TrialState]:
        return [self.trials[number] for number in sorted(self.trials)]

    def _enter(self, trial: TrialState) -> None:
        if trial.number in self.trials:
            raise StateError(f"trial number {trial.number} was suggested twice")
        self.trials[trial.number] = trial
        self._phases[trial.role, trial.phase] += 1
        self.next_number = max(self.next_number, trial.number + 1)
        if trial.number < 0:
            self.baselines.setdefault(trial.role, trial)

    def _move(self, trial: TrialState, phase: Phase) -> None:
        self._phases[trial.role, trial.phase] -= 1
        self._phases[trial.role, phase] += 1
        trial.phase = phase

    def _open_trial(self, number: int, trial_id: str, what: str) -> TrialState:
        trial = self.trials.get(number)
        if trial is None:
            raise StateError(f"trial {number} {what}, but it was never suggested")
        if trial.trial_id != trial_id:
            raise StateError(f"trial {number} is {trial.trial_id}, but {trial_id} {what}")
        if trial.phase not in OPEN:
            raise StateError(f"trial {number} {what}, but it is {trial.phase} already")
        return trial

    def _work(self, trial: TrialState, seconds: float | None) -> None:
        """Count what a trial took since its last report."""
        before = trial.reports[-1].seconds if trial.reports else 0.0
        self.worked_seconds += max(0.0, (seconds or 0.0) - before)

    def _touch(self, at: float) -> None:
        if self._session:
            self._session = (self._session[0], max(self._session[1], at))
