"""How sure the difference of one metric between two models is, on the same examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import torch
from scipy import special
from torch import Tensor

from trainables.record import Bounds

RESAMPLES = 2000
LEFT_OUT = 200
CONFIDENCE = 0.95  # of each bound alone
SEED = 20_260
NORMAL = NormalDist()

Metric = Callable[[Tensor], float]
"""A metric of the examples in these rows, (m,) int64; rows may repeat."""


@dataclass(frozen=True)
class Spread:
    """A metric as it is, over resamples (RESAMPLES,), and with a part at a time left out (p,).

    Two models' spreads over the same examples use the same rows, so their differences are paired.
    ``groups`` is how many groups were drawn from, None where examples were.
    """

    value: float
    resampled: Tensor
    left_out: Tensor
    groups: int | None = None


def spread(metric: Metric, n: int, groups: Tensor | None = None) -> Spread:
    """Score ``n`` examples as they are, drawn again, and with a part of them at a time left out.

    With ``groups``, (n,) int64, whole groups are drawn and left out: examples that are alike come
    and go together.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife"; of groups: Davison &
    Hinkley 1997, "Bootstrap methods and their application", 3.8.
    """
    members = None if groups is None else _Members(groups)
    count, rows_of = (n, _itself) if members is None else (len(members), members.rows)
    return Spread(
        metric(torch.arange(n)),
        torch.tensor([metric(rows_of(some)) for some in _drawn(count)], dtype=torch.float64),
        torch.tensor([metric(rows_of(some)) for some in _without(count)], dtype=torch.float64),
        None if members is None else count,
    )


def _itself(rows: Tensor) -> Tensor:
    return rows


def sizes(groups: Tensor) -> Tensor:
    """How many examples each group has, (g,) int64, in the order of their numbers."""
    found: Tensor = groups.unique(return_counts=True)[1]  # type: ignore[no-untyped-call]
    return found


class _Members:
    """The rows of each group, end to end."""

    def __init__(self, groups: Tensor) -> None:
        self.order = groups.argsort(stable=True)
        self.sizes = sizes(groups)
        self.starts = self.sizes.cumsum(0) - self.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def rows(self, drawn: Tensor) -> Tensor:
        """All rows of these groups, (d,) int64, as often as each is named."""
        counts = self.sizes[drawn]
        shift = (self.starts[drawn] - counts.cumsum(0) + counts).repeat_interleave(counts)
        return self.order[torch.arange(len(shift)) + shift]


def _drawn(n: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(RESAMPLES):
        yield torch.randint(n, (n,), generator=generator)


def _without(n: int) -> Iterator[Tensor]:
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(SEED))
    parts = min(n, LEFT_OUT)
    for part in range(parts if n > 1 else 0):
        yield rows[torch.arange(n) % parts != part]


def bounds(
    value: float, resampled: Tensor, left_out: Tensor, groups: int | None = None
) -> Bounds | None:
    """Bias-corrected and accelerated bounds (BCa), each one-sided at :data:`CONFIDENCE`.

    The quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z = Phi^-1(CONFIDENCE) and its negative,
    of the resamples: z0 is where the value stands among them, a the skewness of the jackknife. Of
    groups there are few: z is then t_{g-1} sqrt(g / (g - 1)), as resamples vary less than samples.

    Args:
        value: The statistic.
        resampled: (b,) of it over resamples.
        left_out: (p,) of it without each part.
        groups: g, how many groups were drawn from; None where examples were.

    Returns:
        None where it has no finite value in one resample of a hundred, or more.

    Source: Efron 1987, "Better bootstrap confidence intervals", JASA 82; of few groups: Hesterberg
    2015, "What teachers should know about the bootstrap", The American Statistician 69.
    """
    drawn = resampled[resampled.isfinite()].sort().values
    if not math.isfinite(value) or len(drawn) <= 0.99 * len(resampled):
        return None
    below = ((drawn < value).sum() + 0.5 * (drawn == value).sum()).item() / len(drawn)
    z0 = NORMAL.inv_cdf(min(max(below, 1 / len(drawn)), 1 - 1 / len(drawn)))
    a = _acceleration(left_out[left_out.isfinite()])
    z = _distance(groups)
    return Bounds(value, _quantile(drawn, z0, a, -z), _quantile(drawn, z0, a, z))


def _distance(groups: int | None) -> float:
    """How many standard errors of the resamples a bound is from the value, were these normal."""
    if groups is None:
        return NORMAL.inv_cdf(CONFIDENCE)
    free = max(groups - 1, 1)
    return float(special.stdtrit(free, CONFIDENCE)) * math.sqrt(groups / free)


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
        ours.groups,
    )


def growth(theirs: Spread, ours: Spread) -> Bounds | None:
    """Bounds of ours / theirs - 1."""
    if theirs.value == 0:
        return None
    return bounds(
        ours.value / theirs.value - 1,
        ours.resampled / theirs.resampled - 1,
        ours.left_out / theirs.left_out - 1,
        ours.groups,
    )
