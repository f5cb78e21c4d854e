"""A point against a baseline on the same test examples, in any primary metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.stats import FEWEST_GROUPS, drop_interval
from trainables.record import COUNTED, Objective, Paired, Verification

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """How much worse a point is than a baseline on ``n`` examples; positive is worse.

    ``drop``, ``lower`` and ``upper`` are in the metric's own units, the latter one-sided 95%
    bounds. ``excess`` is the upper bound as a margin counts it: points of a fraction, a share of
    the baseline's value of anything else. ``groups`` is how many groups of alike examples these
    are, None where they are independent.
    """

    n: int
    drop: float
    lower: float
    upper: float
    excess: float
    method: str
    pair: Paired | None = None
    groups: int | None = None

    def around(self, test: float, y: Objective) -> tuple[float, float]:
        """Ends of the 90% interval of a test score, as dense's own less the drop; worst first."""
        dense = y.loss(test) - self.drop
        return y.value(dense + self.upper), y.value(dense + self.lower)

    @property
    def too_few(self) -> bool:
        """Whether bounds over so few groups certify nothing."""
        return self.groups is not None and self.groups < FEWEST_GROUPS

    @property
    def bound(self) -> float:
        """What a margin is held against: ``excess``, without limit of too few groups."""
        return math.inf if self.too_few else self.excess

    @property
    def sample(self) -> str:
        """``719 examples``, ``4000 examples of 100 groups``, ``360 examples of only 9 groups``."""
        if self.groups is None:
            return f"{self.n} examples"
        return f"{self.n} examples of {'only ' * self.too_few}{self.groups} groups"


def compare(verification: Verification, role: str, y: Objective) -> Comparison | None:
    """The comparison with the baseline of this role, None where there is none in this metric.

    A share of right examples has the score interval of :func:`analysis.stats.drop_upper`. Any other
    primary metric, and that too where examples come in groups, has the bootstrap that the
    verification holds.
    """
    metric = y.name.removeprefix("val_")
    pair, drop = verification.paired.get(role), verification.drops.get(role)
    grouped = drop is not None and drop.metric == metric and drop.groups is not None
    if metric in COUNTED and pair and not grouped:
        found = drop_interval(pair, 0.9)
        method = "score interval of paired proportions (Tango 1998)"
        return Comparison(pair.n, pair.drop, found.lower, found.upper, found.upper, method, pair)
    if drop is None or drop.metric != metric:
        return None
    at = drop.absolute
    # Without a relative bound, of a baseline at 0, no share of it is certain.
    share = drop.relative.high if drop.relative else math.inf
    excess = at.high if y.is_fraction else share
    bounds = (at.value, at.low, at.high, excess)
    return Comparison(drop.n, *bounds, drop.method, groups=drop.groups)
