"""How long a search still takes, by what its trials took so far. Pure: no clock, no files."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from study.events import SEARCH
from study.state import Phase, StudyState, TrialState
from study.trial_state import ENDED

FEWEST = 24  # trials; of more than twice as many that ended only the later half counts
DRAWS, MOST_WAVES = 16, 10


def seconds_left(state: StudyState, trials: int, now: float) -> float | None:
    """Seconds from ``now`` (since 1970) until so many search trials have ended.

    Trials still to come cost what recent ones did, those that run what is left of that, and as
    many go on at once as did since the first one ended: starting the workers is no pace. Of those
    that run it is known that they are no shorter than they are old, without which a study's first
    short trials would speak for all (Kaplan and Meier, 1958).

    None before the first search trial of this session has ended.
    """
    session = state.opened[-1].at if state.opened else now
    ended = [t for t in state.finished if t.phase in ENDED and (t.ended_at or 0.0) > session]
    running = [t for t in state.trials.values() if t.phase is Phase.RUNNING]
    if not ended:
        return None
    first = min(t.ended_at or now for t in ended)
    at_once = _at_once([*ended, *running], first, now)
    counts = state.counts()
    to_come = max(0, trials - counts["ran"] - counts["running"])
    if not running and not to_come:
        return 0.0
    if at_once is None or not any(t.role == SEARCH for t in ended):
        return None
    ages = np.array([max(0.0, now - (t.started_at or now)) for t in running])
    like = [t for t in ended if t.role == SEARCH]
    took = Lengths([_took(t, first) for t in _recent(like)], ages)
    return _until_all_ended(took, ages, to_come, at_once)


def _until_all_ended(took: Lengths, ages: np.ndarray, to_come: int, at_once: float) -> float:
    """On average over some draws of lengths, the trials begun one after the other.

    Of very many only the last are drawn: it is in these that places are empty.
    """
    places = max(round(at_once), 1)
    drawn = min(to_come, MOST_WAVES * places)
    chance, ends = np.random.default_rng(0), []
    for _ in range(DRAWS):
        free = sorted(took.draw_rest(ages, chance))
        free = [0.0] * max(0, places - len(free)) + free
        heapq.heapify(free)
        for length in took.draw(drawn, chance):
            heapq.heappush(free, heapq.heappop(free) + length)
        ends.append(max(free))
    return float(np.mean(ends)) + (to_come - drawn) * took.mean / at_once


def _recent(ended: Sequence[TrialState]) -> Sequence[TrialState]:
    return ended[-max(FEWEST, len(ended) // 2) :]


def _took(trial: TrialState, first: float) -> float:
    """The time of a worker that it took, without that worker's own start."""
    if (trial.started_at or 0.0) < first and trial.record and trial.record.outcome.seconds:
        return trial.record.outcome.seconds
    return max(0.0, (trial.ended_at or 0.0) - (trial.started_at or 0.0))


def _at_once(trials: Sequence[TrialState], since: float, now: float) -> float | None:
    """Trials at work on average; None if no time has passed."""
    if now <= since:
        return None
    spans = (min(t.ended_at or now, now) - max(t.started_at or now, since) for t in trials)
    return max(1.0, sum(max(0.0, span) for span in spans) / (now - since))


class Lengths:
    """How long trials last: those that ended, and ages of those that run, each at least so long."""

    def __init__(self, ended: Sequence[float], ages: np.ndarray) -> None:
        times = np.concatenate([np.asarray(ended, float), ages])
        over = np.concatenate([np.ones(len(ended)), np.zeros(len(ages))])
        order = np.lexsort((-over, times))
        at_risk = len(times) - np.arange(len(times))
        self._times = times[order]
        # The chance to last beyond each time.
        self._beyond = np.cumprod(1 - over[order] / at_risk)
        if self._beyond[-1] > 0:  # one that runs is the longest: as much again as one end takes
            more = times.sum() / len(ended)
            self._times = np.append(self._times, self._times[-1] + more)
            self._beyond = np.append(self._beyond, 0.0)

    def draw(self, count: int, chance: np.random.Generator) -> list[float]:
        """Lengths of trials of which nothing is known yet."""
        return list(map(float, self._at(chance.random(count))))

    def draw_rest(self, ages: np.ndarray, chance: np.random.Generator) -> list[float]:
        """What trials of these ages have before them; of one as old as the oldest, nothing."""
        beyond = np.concatenate([[1.0], self._beyond])
        lasted = beyond[np.searchsorted(self._times, ages, side="right")]
        ends = self._at(lasted * chance.random(len(ages)))
        return list(map(float, np.maximum(ends - ages, 0.0)))

    def _at(self, beyond: np.ndarray) -> np.ndarray:
        """The times beyond which trials last with these chances."""
        at = np.searchsorted(-self._beyond, -beyond, side="left")
        return self._times[np.minimum(at, len(self._times) - 1)]

    @property
    def mean(self) -> float:
        """Of a trial of which nothing is known yet."""
        starts = np.concatenate([[0.0], self._times[:-1]])
        chance = np.concatenate([[1.0], self._beyond[:-1]])
        return float(((self._times - starts) * chance).sum())
