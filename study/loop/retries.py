"""Trials whose worker was lost: why, whether they are run again, and when the study gives up."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from study.events import Cause
from study.trial_state import TrialState
from trainables.record import OUT_OF_MEMORY, Outcome, Status

LOUD = 3  # in a row, from one cause
HOPELESS = 10  # trials that are lost in a row, with all their retries
MOST_MOVES = 100
"""How often machines may go away under a trial that gets no further meanwhile."""

# Ray's words where the machine went away and not the process alone; a worker that can't be reached
# may live on behind a cut cable.
_GUESSES = " Some common causes include"
_NODE = re.compile(
    r"node (has died|was (terminated|preempted))|ActorUnavailable|The actor \w* ?is unavailable",
    re.IGNORECASE,
)
# Of a process that died its machine tells; where nobody tells anything, nobody is there: so it is
# after a notice that a cloud takes the machine away (Ray 2.60).
_SILENT = re.compile(r"actor_id: [0-9a-f]+\s*\Z")


@dataclass(frozen=True)
class Loss:
    """Why a trial came to no end, and in whose words."""

    cause: Cause
    error: str


def loss_of(told: str, out_of_memory: bool) -> Loss:
    """What Ray's account of a lost worker comes to."""
    if _SILENT.search(told):
        return Loss(Cause.NODE, "its machine went away, and Ray says no more of it")
    lines = [line.strip() for line in told.strip().splitlines() if line.strip()]
    error = lines[-1] if lines else "its worker died, and Ray does not know of what"
    error = error.partition(_GUESSES)[0]
    if out_of_memory:
        return Loss(Cause.MEMORY, f"{OUT_OF_MEMORY}: the worker was killed: {error}")
    return Loss(Cause.NODE if _NODE.search(told) else Cause.WORKER, error)


class Retries:
    """How often a trial is run again, and whether any worker lives."""

    def __init__(self, most: int, say: Callable[[str], None]) -> None:
        self._most = {Cause.MEMORY: 1, Cause.WORKER: most, Cause.NODE: MOST_MOVES}
        self._say = say
        self._failures: deque[str | None] = deque(maxlen=LOUD)
        self._lost = 0

    def allow(self, trial: TrialState, cause: Cause) -> bool:
        """Whether a trial may be run again after one more setback."""
        if cause is Cause.MEMORY:
            return not trial.alone
        before = Counter(setback.cause for setback in trial.setbacks)
        return cause not in self._most or before[cause] < self._most[cause]

    def lived(self) -> None:
        """A worker reported."""
        self._lost = 0

    def lost(self, loss: Loss, ever_reported: bool) -> bool:
        """Whether so many workers in a row were lost, without a report, that none will live.

        A study in which none ever reported is stopped before one trial is given up for it. Later it
        takes :data:`HOPELESS` trials: it may well be the trials of one kind that kill workers.
        """
        if loss.cause is not Cause.WORKER:
            return False
        self._lost += 1
        once = 1 + self._most[Cause.WORKER]
        return self._lost >= (HOPELESS * once if ever_reported else max(LOUD, once))

    def given_up(self, trial: TrialState, loss: Loss) -> Outcome:
        """The end of a trial that is not run again: all that happened to it since it got further.

        It was lost in the same place each time, so no searcher is to suggest the like of it.
        """
        if loss.cause is Cause.MEMORY:
            return Outcome(Status.FAILED, error=loss.error)
        errors = [setback.error for setback in trial.setbacks] + [loss.error]
        causes = "; ".join(f"{e} ({n}x)" if n > 1 else e for e, n in Counter(errors).items())
        return Outcome(Status.FAILED, error=f"worker lost {len(errors)} times: {causes}")

    def watch(self, outcome: Outcome) -> None:
        """Say it loudly when one cause fails several trials in a row."""
        self._failures.append(outcome.cause)
        if outcome.cause and list(self._failures) == [outcome.cause] * LOUD:
            self._say(f"{LOUD} trials in a row failed from one cause: {outcome.error}")
