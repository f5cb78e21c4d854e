"""Who of several studies is ahead: hypervolumes, how sure their difference is, and where."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis import fronts
from analysis.studies.rivals import Field, Losses, Rival

__all__ = [
    "DRAWS",
    "Difference",
    "Place",
    "beaten",
    "differences",
    "dominated",
    "over_repeats",
    "places",
    "volume",
]

DRAWS, CONFIDENCE = 1000, 0.9
DEEPEST = 20
"""Layers of the front that draws look at: that of a point's 20 betters none is drawn again has a
chance of e^-20."""


@dataclass(frozen=True)
class Difference:
    """Hypervolume of ``first`` less that of ``second``.

    ``low`` and ``high`` are a 90% interval over the trials of both: those of each study are drawn
    again from its own, with replacement, and the spread of the differences is laid around the one
    measured. It shows how far the difference hangs on few lucky trials. It is no interval over
    seeds of the search, splits or examples. Between groups of ``repeats`` it is just that: Welch's
    95% t-interval of the difference of their means.
    """

    first: str
    second: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Place:
    """At a ratio or above: each rival's best metric (None without a point there), who leads.

    ``leaders`` are several where they are level; ``lead`` is how far the next one is behind.
    """

    ratio: float
    best: tuple[float | None, ...]
    leaders: tuple[str, ...]
    lead: float | None


def volume(rival: Rival, reference: tuple[float, float]) -> float:
    """Hypervolume of a rival's front."""
    return fronts.hypervolume(_measured(rival.losses), reference)


def differences(field: Field, seed: int = 0) -> list[Difference]:
    """Of each pair of rivals, the first named first."""
    rng = np.random.default_rng(seed)
    drawn = {r.name: _drawn(r.losses, field.reference, rng) for r in field.rivals}
    found = []
    for one, other in combinations(field.rivals, 2):
        value = volume(one, field.reference) - volume(other, field.reference)
        spread = drawn[one.name] - drawn[other.name]
        # A front of trials drawn again is never better than the one of all of them: the draws'
        # mean says nothing of the difference, their spread does.
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(spread - spread.mean(), [tail, 1 - tail])
        found.append(
            Difference(one.name, other.name, value, value + float(low), value + float(high))
        )
    return found


def over_repeats(field: Field) -> list[Difference]:
    """Of each pair of groups of studies that repeat each other, by the means of their volumes.

    Source: Welch 1947, "The generalization of 'Student's' problem when several different
    population variances are involved".
    """
    named = {
        f"{group[0].name} ({len(group)} studies)": [volume(r, field.reference) for r in group]
        for group in field.repeats
    }
    found = []
    for (first, one), (second, other) in combinations(named.items(), 2):
        test = stats.ttest_ind(one, other, equal_var=False)
        low, high = test.confidence_interval(0.95)
        value = float(np.mean(one) - np.mean(other))
        # Of repeats that all came to the same volume no spread is known.
        if np.isfinite([low, high]).all():
            found.append(Difference(first, second, value, float(low), float(high)))
    return found


def _measured(losses: Losses) -> Losses:
    return losses[~np.isnan(losses[:, 0])]


def _drawn(
    losses: Losses, reference: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Hypervolumes of as many trials drawn again, ``(DRAWS,)``; failed ones are drawn, too."""
    measured = np.flatnonzero(~np.isnan(losses[:, 0]))
    candidates = measured[fronts.ranks(losses[measured]) < DEEPEST]
    volumes = []
    for _ in range(DRAWS):
        present = np.zeros(len(losses), dtype=np.bool_)
        present[rng.integers(len(losses), size=len(losses))] = True
        volumes.append(fronts.hypervolume(losses[candidates[present[candidates]]], reference))
    return np.array(volumes)


def beaten(field: Field) -> Iterator[tuple[str, str, int, int]]:
    """Of each ordered pair: who, by whom, how many points of its front, of how many."""
    points = {rival.name: [losses for _, losses in rival.front] for rival in field.rivals}
    for one in field.rivals:
        for other in field.rivals:
            if one is not other:
                mine = points[one.name]
                lost = sum(dominated(losses, points[other.name]) for losses in mine)
                yield one.name, other.name, lost, len(mine)


def dominated(point: Losses, others: Sequence[Losses]) -> bool:
    """Whether one of the others is as good in both, and better in one."""
    return any(bool((o <= point).all() and (o < point).any()) for o in others)


def places(field: Field) -> list[Place]:
    """Who is ahead at each doubling of the ratio that some front reaches."""
    ends = [-losses[1] for rival in field.rivals for _, losses in rival.front]
    steps = range(max(math.floor(min(ends)), 0), math.floor(max(ends)) + 1)
    return [_place(field, float(step)) for step in steps]


def _place(field: Field, log2_ratio: float) -> Place:
    found = [_best(rival, log2_ratio) for rival in field.rivals]
    order = sorted(loss for loss in found if loss is not None)
    leaders = [r.name for r, loss in zip(field.rivals, found, strict=True) if loss == order[0]]
    behind = order[len(leaders)] - order[0] if len(order) > len(leaders) else None
    best = tuple(None if loss is None else field.y.value(loss) for loss in found)
    return Place(2**log2_ratio, best, tuple(leaders), behind)


def _best(rival: Rival, log2_ratio: float) -> float | None:
    return min((float(a) for _, (a, b) in rival.front if -b >= log2_ratio), default=None)
