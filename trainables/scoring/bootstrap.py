"""How sure the difference of one metric between two models is, on the same examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from trainables.record import Bounds

RESAMPLES = 2000
GROUPS = 200
CONFIDENCE = 0.95  # of each bound alone
SEED = 20_260
NORMAL = NormalDist()

Metric = Callable[[Tensor], float]
"""A metric of the examples in these rows, (m,) int64; rows may repeat."""


@dataclass(frozen=True)
class Spread:
    """A metric as it is, over resamples (RESAMPLES,), and without each group of examples (g,).

    Two models' spreads over the same examples use the same rows, so their differences are paired.
    """

    value: float
    resampled: Tensor
    left_out: Tensor


def spread(metric: Metric, n: int) -> Spread:
    """Score ``n`` examples as they are, drawn again, and with one group at a time left out.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    return Spread(
        metric(torch.arange(n)),
        torch.tensor([metric(rows) for rows in _drawn(n)], dtype=torch.float64),
        torch.tensor([metric(rows) for rows in _without(n)], dtype=torch.float64),
    )


def _drawn(n: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(RESAMPLES):
        yield torch.randint(n, (n,), generator=generator)


def _without(n: int) -> Iterator[Tensor]:
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(SEED))
    groups = min(n, GROUPS)
    for group in range(groups if n > 1 else 0):
        yield rows[torch.arange(n) % groups != group]


def bounds(value: float, resampled: Tensor, left_out: Tensor) -> Bounds | None:
    """Bias-corrected and accelerated bounds (BCa), each one-sided at :data:`CONFIDENCE`.

    The quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z = Phi^-1(CONFIDENCE) and its negative,
    of the resamples: z0 is where the value stands among them, a the skewness of the jackknife.

    Args:
        value: The statistic.
        resampled: (b,) of it over resamples.
        left_out: (g,) of it without each group.

    Returns:
        None where it has no finite value in one resample of a hundred, or more.

    Source: Efron 1987, "Better bootstrap confidence intervals", JASA 82.
    """
    drawn = resampled[resampled.isfinite()].sort().values
    if not math.isfinite(value) or len(drawn) <= 0.99 * len(resampled):
        return None
    below = ((drawn < value).sum() + 0.5 * (drawn == value).sum()).item() / len(drawn)
    z0 = NORMAL.inv_cdf(min(max(below, 1 / len(drawn)), 1 - 1 / len(drawn)))
    a = _acceleration(left_out[left_out.isfinite()])
    low, high = (_quantile(drawn, z0, a, sign * NORMAL.inv_cdf(CONFIDENCE)) for sign in (-1, 1))
    return Bounds(value, low, high)


def _acceleration(left_out: Tensor) -> float:
    """Sum of d^3 / (6 (sum of d^2)^1.5), d the mean less each: above 0 for a long right tail."""
    distance = left_out.mean() - left_out
    squares = distance.square().sum().item()
    return distance.pow(3).sum().item() / (6 * squares**1.5) if squares > 0 else 0.0


def _quantile(drawn: Tensor, z0: float, a: float, z: float) -> float:
    stretched = 1 - a * (z0 + z)
    share = NORMAL.cdf(z0 + (z0 + z) / stretched) if stretched > 0 else float(z > 0)
    return drawn.quantile(share).item()


def difference(theirs: Spread, ours: Spread) -> Bounds | None:
    """Bounds of ours - theirs."""
    return bounds(
        ours.value - theirs.value,
        ours.resampled - theirs.resampled,
        ours.left_out - theirs.left_out,
    )


def growth(theirs: Spread, ours: Spread) -> Bounds | None:
    """Bounds of ours / theirs - 1."""
    if theirs.value == 0:
        return None
    return bounds(
        ours.value / theirs.value - 1,
        ours.resampled / theirs.resampled - 1,
        ours.left_out / theirs.left_out - 1,
    )
