"""Where the rungs stand: at which of them, if any, a report finds its trial."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from study.schedulers.base import Budget, Standing


class Ladder(Protocol):
    """Tells rungs apart. Trials are ranked among those with the same answer."""

    def rung(self, trial: str, at: Standing) -> Hashable | None:
        """The rung at which the trial is judged now; None: not now."""


@dataclass(frozen=True)
class AtEpochs:
    """Rungs at the same epochs for every trial."""

    milestones: tuple[int, ...]

    def rung(self, trial: str, at: Standing) -> Hashable | None:
        """See :class:`Ladder`."""
        return at.epochs_done if at.epochs_done in self.milestones else None


class AtSeconds:
    """Rungs at the same cost: a trial is judged at the first epoch after it has crossed one.

    Of several crossed within an epoch, or before ``room`` begins, the highest counts.
    """

    def __init__(self, seconds: tuple[float, ...], room: range) -> None:
        self.seconds, self.room = seconds, room
        self._crossed: dict[str, dict[int, int]] = defaultdict(dict)

    def rung(self, trial: str, at: Standing) -> Hashable | None:
        """See :class:`Ladder`."""
        if at.epochs_done not in self.room:
            return None
        # By epoch, so that one that starts again is judged as if it had never run before.
        mine = self._crossed[trial]
        mine[at.epochs_done] = count = bisect_right(self.seconds, at.seconds)
        before = max((n for epoch, n in mine.items() if epoch < at.epochs_done), default=0)
        return count if count > before else None


@dataclass(frozen=True)
class Strata:
    """Each rung of another ladder by bands of compression ratios, ``width`` wide in log2."""

    ladder: Ladder
    width: float

    def rung(self, trial: str, at: Standing) -> Hashable | None:
        """See :class:`Ladder`."""
        rung = self.ladder.rung(trial, at)
        return None if rung is None else (rung, math.floor(-at.losses[1] / self.width))


def first_epoch(grace: float, budget: Budget) -> int:
    """max(1, ceil(grace x epochs), min_fidelity)."""
    # 0.55 of 100 is 55, not 55.000...01
    share = math.ceil(Fraction(str(grace)) * budget.epochs)
    return max(1, share, budget.min_fidelity)


def rung_epochs(grace: float, eta: float, budget: Budget) -> tuple[int, ...]:
    """:func:`first_epoch`, then times eta each, rounded, below the full budget."""
    rungs: list[int] = []
    epoch = float(first_epoch(grace, budget))
    while round(epoch) < budget.epochs:
        if not rungs or round(epoch) > rungs[-1]:
            rungs.append(round(epoch))
        epoch *= eta
    return tuple(rungs)


def rung_seconds(grace: float, eta: float, seconds: float, budget: Budget) -> tuple[float, ...]:
    """The same shares of ``seconds``: max(grace, 1 / epochs), then times eta each, below 1."""
    rungs, share = [], max(grace, 1 / budget.epochs)
    while share < 1:
        rungs.append(share * seconds)
        share *= eta
    return tuple(rungs)


def unreachable(milestones: tuple[int, ...], grace: float, budget: Budget) -> Iterator[str]:
    """What is wrong where a trial could be stopped, but no rung lies below its last epoch."""
    if budget.room and not milestones:
        most = math.floor(100 * (1 - Fraction(1, budget.epochs))) / 100
        yield (
            f"grace: after {grace:g} of {budget.epochs} epochs no rung is left and nothing could "
            f"be stopped; expected at most {most:g}, or the scheduler fifo"
        )
