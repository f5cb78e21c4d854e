"""What a model learns from: the trials of an Optuna study as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from analysis.fronts import non_dominated
from study.searchers.encoding import Codes, Encoding

Array = NDArray[np.float64]
REACHED = "reached"
"""The attribute of a trial that says how far it came: share of its epochs, losses, seconds."""
RUNNING = 500
"""Of trials that run, the most that a model looks at: all of 10,000 would teach it no more."""


def reached(
    losses: Sequence[float], points: Sequence[tuple[float, float]], seconds: float
) -> dict[str, Any]:
    """The attribute's value: losses at the end, (share of the epochs, loss) on the way, cost."""
    return {"losses": list(losses), "points": [list(p) for p in points], "seconds": seconds}


@dataclass(frozen=True)
class Seen:
    """Ended trials, n of them, and those that run: of thousands some, old and new.

    ``losses`` are (n, m) at the end of each, ``shares`` (n,) of its epochs it was trained;
    ``points`` (k, 3) are row, share and primary loss on the way; ``log_cost`` (n,) is the log of
    the seconds of the whole trial; ``violation`` (n,) by how much it breaks constraints. ``tried``
    are the bytes of the codes of all, those of every trial that runs among them.
    """

    codes: Codes
    running: Codes
    losses: Array
    points: Array
    log_cost: Array
    violation: Array
    tried: Set[bytes] = frozenset()

    @property
    def front(self) -> NDArray[np.int64]:
        """Rows of the front: of what breaks no constraint, or breaks them least."""
        kept = np.flatnonzero(self.violation <= self.violation.min(initial=np.inf))
        front: NDArray[np.int64] = kept[non_dominated(self.losses[kept])]
        return front

    def __len__(self) -> int:
        """Ended trials."""
        return len(self.codes)

    @classmethod
    def of(
        cls, study: optuna.Study, encoding: Encoding, coded: dict[int, Array] | None = None
    ) -> Seen:
        """All trials that the study shows. ``coded`` are the codes of some, and then of all."""
        trials = study.get_trials(deepcopy=False)
        signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
        ended = [t for t in trials if REACHED in t.user_attrs]
        running = [t for t in trials if t.state == TrialState.RUNNING]
        known = {} if coded is None else coded
        _know([*ended, *running], encoding, known)
        tried = {known[t.number].tobytes() for t in (*ended, *running)}
        running = running[:: -(-len(running) // RUNNING) or 1]
        told = [t.user_attrs[REACHED] for t in ended]
        points = [(row, *point) for row, each in enumerate(told) for point in each["points"]]
        return cls(
            _codes(ended, encoding, known),
            _codes(running, encoding, known),
            np.array([t["losses"] for t in told]).reshape(-1, len(signs)),
            np.array(points, dtype=np.float64).reshape(-1, 3),
            np.array([_log_cost(t) for t in told]),
            np.array([sum(max(0.0, v) for v in t.constraints.values()) for t in ended], float),
            tried,
        )


def _know(trials: Sequence[FrozenTrial], encoding: Encoding, known: dict[int, Array]) -> None:
    """Encode those that are new; what a trial was asked never changes."""
    new = [t for t in trials if t.number not in known]
    known.update(
        zip((t.number for t in new), encoding.encode([t.params for t in new]), strict=True)
    )


def _codes(trials: Sequence[FrozenTrial], encoding: Encoding, known: dict[int, Array]) -> Codes:
    """Codes of trials, (n, parameters)."""
    return np.stack([known[t.number] for t in trials]) if trials else encoding.encode([])


def _log_cost(told: Mapping[str, Any]) -> float:
    """Of the whole trial, had it not been stopped; what ends before any training costs no more."""
    share = max((share for share, _ in told["points"]), default=1.0)
    return math.log(max(told["seconds"], 1e-3) / (share or 1.0))
