"""Which knobs matter for being among the best: PED-ANOVA, with what chance alone would give.

A knob matters where its values among the best trials are spread otherwise than among all:
importance is the Pearson divergence of the two, integral of p_all (p_best / p_all - 1)^2.
Source: Watanabe, Bansal & Hutter 2023, "PED-ANOVA: efficiently quantifying hyperparameter
importance in arbitrary subspaces", arXiv 2304.10255. Knobs that only some trials have count by
these: times share_best^2 / share_all, Eq. of Theorem 4.2 of arXiv 2601.20800.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.knobs import Column

__all__ = ["Weight", "best_of", "weights"]

BEST = 0.1
FEWEST_BEST, FEWEST = 5, 20
"""Below so many best trials, or trials at all, nothing is told from chance."""
STEPS, MOST_LEVELS = 50, 10
"""Numbers of more than ``MOST_LEVELS`` values, or of few trials each, are binned in ``STEPS``
and smoothed."""
DRAWS, CHANCES = 400, 2000
"""Of the trials for intervals, and of as many as are best for what chance gives: the rarest of
dozens of knobs in one draw of twenty is one of a thousand."""

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Weight:
    """What a knob weighs among all knobs.

    Args:
        name: The knob's.
        share: Of all knobs' importance; what chance gives is taken off first. 0 is none.
        low: Lower end of its 90% bootstrap interval over trials.
        high: Upper end of it.
        above_chance: Whether of as many trials drawn at random fewer than 5% would give any knob as
            much, each knob by its own draws.
        toward: Which value the best trials have more often; of numbers, ``larger`` or ``smaller``.
        helps: The same, and how often.
    """

    name: str
    share: float
    low: float
    high: float
    above_chance: bool
    toward: str
    helps: str


@dataclass(frozen=True)
class _Levels:
    """A knob in levels: each trial's level, the last one where it does not have the knob."""

    labels: Sequence[str]
    of: NDArray[np.int64]
    numbers: NDArray[np.float64] | None  # by trial, of a numeric knob, NaN where it has none
    kernel: NDArray[np.float64]  # (levels, levels), rows sum to 1

    def counts(self, among: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of these trials are at each level, ``(levels + 1,)``."""
        return np.bincount(self.of[among], minlength=len(self.labels) + 1)


def best_of(losses: Sequence[float] | NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """The tenth of the trials with the smallest losses, ties included.

    Returns:
        ``(n,)`` mask; None where there are too few trials, or no difference among them.
    """
    array = np.asarray(losses, dtype=np.float64)
    if array.size < FEWEST:
        return None
    count = max(FEWEST_BEST, math.ceil(BEST * array.size))
    best = array <= np.partition(array, count - 1)[count - 1]
    # Of more than half of the trials nobody would say that they are the best.
    return best if 2 * best.sum() <= array.size else None


def weights(
    columns: Mapping[str, Column], best: NDArray[np.bool_], seed: int = 0
) -> list[Weight] | None:
    """What each knob weighs for being among the best, the largest share first.

    Args:
        columns: By knob, a value a trial.
        best: ``(n,)``, who is.
        seed: Of the draws behind intervals and chance.

    Returns:
        None where no knob weighs more than chance would give it on average.
    """
    rng = np.random.default_rng(seed)
    levels = {name: _levels(column, int(best.sum())) for name, column in columns.items()}
    drawn = _drawn(best, rng)
    chance = {name: _by_chance(one, drawn) for name, one in levels.items()}
    found = [_weighed(name, one, best, chance[name], rng) for name, one in levels.items()]
    total = sum(one.share for one in found)
    if not total:
        return None
    sure = _above_all(levels, best, chance)
    shares = [
        replace(
            w,
            share=w.share / total,
            low=w.low / total,
            high=min(w.high / total, 1.0),
            above_chance=w.name in sure,
        )
        for w in found
    ]
    return sorted(shares, key=lambda w: (-w.share, w.name))


def _drawn(best: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many trials as are best, at random: (CHANCES, best), the same ones for every knob."""
    count = int(best.sum())
    draws = [rng.choice(best.size, count, replace=False, shuffle=False) for _ in range(CHANCES)]
    return np.array(draws, dtype=np.int64)


def _by_chance(levels: _Levels, drawn: NDArray[np.int64]) -> Counts:
    """A knob's importance for being among trials drawn at random, ``(CHANCES,)``."""
    width = len(levels.labels) + 1
    at = levels.of[drawn] + width * np.arange(len(drawn))[:, None]
    counts = np.bincount(at.ravel(), minlength=width * len(drawn)).reshape(len(drawn), width)
    everyone = np.bincount(levels.of, minlength=width)
    return _divergence(counts, np.broadcast_to(everyone, counts.shape), levels.kernel)


def _above_all(
    levels: Mapping[str, _Levels], best: NDArray[np.bool_], chance: Mapping[str, Counts]
) -> set[str]:
    """The knobs that give more than any knob of random trials does, but for one draw in twenty.

    Each is counted by its rank among its own draws, since knobs are spread differently by chance,
    and held against the rarest rank of all knobs in each draw: however many knobs there are, noise
    has one above chance in 5% of all panels.
    Source: Westfall & Young 1993, "Resampling-based multiple testing", single-step minP.
    """
    ordered = {name: np.sort(one) for name, one in chance.items()}

    def rarity(name: str, values: Counts | float) -> Counts:
        """The share of a knob's draws that give as much."""
        return np.asarray(1 - np.searchsorted(ordered[name], values, side="left") / CHANCES)

    rarest = np.min([rarity(name, one) for name, one in chance.items()], axis=0)
    found = set()
    for name, level in levels.items():
        own = rarity(name, _raw(level, best))
        if 1 + np.sum(rarest <= own) <= 0.05 * (1 + CHANCES):
            found.add(name)
    return found


def _raw(levels: _Levels, best: NDArray[np.bool_]) -> float:
    top, rest = levels.counts(best), levels.counts(~best)
    return float(_divergence(top, top + rest, levels.kernel))


def _weighed(
    name: str,
    levels: _Levels,
    best: NDArray[np.bool_],
    chance: Counts,
    rng: np.random.Generator,
) -> Weight:
    """A knob's importance above chance, not yet as a share nor held against chance."""
    cells = np.concatenate([levels.counts(best), levels.counts(~best)])
    again = rng.multinomial(cells.sum(), cells / cells.sum(), size=DRAWS)
    top_again, rest_again = np.split(again, 2, axis=1)
    spread = _divergence(top_again, top_again + rest_again, levels.kernel)
    # Trials drawn again differ from these by chance too: only the spread of the draws is used.
    low, high = np.quantile(spread - spread.mean(), [0.05, 0.95])
    above = _raw(levels, best) - float(chance.mean())
    return Weight(
        name,
        max(above, 0.0),
        max(above + float(low), 0.0),
        max(above + float(high), 0.0),
        False,
        *_helps(levels, best),
    )


def _divergence(
    top: NDArray[np.int64], everyone: NDArray[np.int64], kernel: NDArray[np.float64]
) -> Counts:
    """Importance by counts ``(..., levels + 1)``, the last of trials without the knob."""
    share_top = top[..., :-1].sum(-1) / np.maximum(top.sum(-1), 1)
    share_all = everyone[..., :-1].sum(-1) / np.maximum(everyone.sum(-1), 1)
    p_top, p_all = _density(top[..., :-1], kernel), _density(everyone[..., :-1], kernel)
    apart = ((p_top - p_all) ** 2 / p_all).sum(-1)
    return np.asarray(
        np.where(share_all > 0, share_top**2 / np.maximum(share_all, 1e-12), 0) * apart
    )


def _density(counts: NDArray[np.int64], kernel: NDArray[np.float64]) -> Counts:
    # One trial at all levels alike is added: no level is impossible.
    smoothed = counts @ kernel + 1 / kernel.shape[0]
    return np.asarray(smoothed / smoothed.sum(-1, keepdims=True))


def _levels(column: Column, best: int) -> _Levels:
    values = [value for value in column if value is not None]
    numeric = all(type(value) in (int, float) for value in values)
    distinct = len(set(values))
    # Draws from a range are all different, however few they are.
    if numeric and distinct > 1 and (distinct > MOST_LEVELS or 2 * distinct > len(values)):
        return _binned(column, best)
    order = sorted(
        set(values), key=lambda v: (isinstance(v, str), v if not isinstance(v, str) else 0, str(v))
    )
    place = {repr(value): i for i, value in enumerate(order)}
    of = np.array([len(order) if v is None else place[repr(v)] for v in column], dtype=np.int64)
    return _Levels([str(value) for value in order], of, None, np.eye(len(order)))


def _binned(column: Column, best: int) -> _Levels:
    numbers = np.array([np.nan if v is None else float(v) for v in column])
    has = ~np.isnan(numbers)
    # What spans more than a decade in positive numbers is as a rule searched by its logarithm.
    positive = numbers[has].min() > 0 and numbers[has].max() > 10 * numbers[has].min()
    scaled = np.log(numbers) if positive else numbers
    low, high = scaled[has].min(), scaled[has].max()
    steps = (scaled - low) / (high - low) * (STEPS - 1)
    of = np.full(len(column), STEPS, dtype=np.int64)
    of[has] = np.rint(steps[has]).astype(np.int64)
    # Who is best must not shape the kernel, else the best are no longer like random trials.
    count = max(best * float(has.mean()), 1.0)
    return _Levels([""] * STEPS, of, numbers, _gaussian(_bandwidth(steps[has], count)))


def _bandwidth(steps: NDArray[np.float64], count: float) -> float:
    """Scott's rule, 1.059 min(s, IQR / 1.34) n^(-1/5), in bins; at least a third of one.

    Args:
        steps: Of all trials.
        count: n, of as many trials as are best.
    """
    if steps.size < 2:
        return STEPS / 4
    spread = min(
        float(steps.std(ddof=1)), float(np.subtract(*np.quantile(steps, [0.75, 0.25]))) / 1.34
    )
    return max(float(1.059 * spread * count**-0.2), 0.3)


def _gaussian(width: float) -> NDArray[np.float64]:
    at = np.arange(STEPS)
    kernel = np.exp(-0.5 * ((at[:, None] - at) / width) ** 2)
    return np.asarray(kernel / kernel.sum(axis=1, keepdims=True))


def _helps(levels: _Levels, best: NDArray[np.bool_]) -> tuple[str, str]:
    """Which value is more frequent among the best, and how much; empty where they don't have it."""
    if levels.numbers is not None:
        return _side(levels.numbers, best)
    top, everyone = levels.counts(best)[:-1], levels.counts(np.full_like(best, True))[:-1]
    if not top.sum():
        return "", ""
    shares = top / top.sum(), everyone / everyone.sum()
    at = int(np.argmax(shares[0] - shares[1]))
    often = f"{shares[0][at]:.0%} of the best that have it, {shares[1][at]:.0%} of all"
    return levels.labels[at], f"{levels.labels[at]}: {often}"


def _side(numbers: NDArray[np.float64], best: NDArray[np.bool_]) -> tuple[str, str]:
    """On which side of all numbers those of the best are."""
    has = ~np.isnan(numbers)
    if not (has & best).any():
        return "", ""
    here, there = float(np.median(numbers[has & best])), float(np.median(numbers[has]))
    if here == there:
        return "", f"median {here:.3g} among the best and among all"
    side = "larger" if here > there else "smaller"
    return side, f"{side}: median {here:.3g} among the best, {there:.3g} among all"
