"""How sure a difference is: paired intervals, certification, intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy import optimize
from scipy import stats as scipy_stats

from trainables.record import Paired

__all__ = [
    "FEWEST_GROUPS",
    "MARGIN",
    "Interval",
    "certify",
    "drop_interval",
    "drop_upper",
    "fewest_changes",
    "mean_interval",
    "smallest_detectable",
]

MARGIN = 0.01
"""The drop that a report certifies: a point of a fraction, else a share of the dense value."""

FEWEST_GROUPS = 20
"""Groups of alike examples below which no bound certifies: resampled, so few look too much alike.

Source: Cameron, Gelbach & Miller 2008, "Bootstrap-based improvements for inference with clustered
errors", The Review of Economics and Statistics 90.
"""


@dataclass(frozen=True)
class Interval:
    """An estimate with its lower and upper bound."""

    value: float
    lower: float
    upper: float


def _z(confidence: float) -> float:
    if not 0.5 < confidence < 1.0:
        raise ValueError(f"confidence: expected a value in (0.5, 1), got {confidence}")
    return NormalDist().inv_cdf(confidence)


def _score(paired: Paired, drop: float) -> float:
    """Score statistic of a supposed drop: (b - c - n drop) / sqrt(n (2 q + drop - drop^2)).

    b and c count the examples that only the reference, only the model gets right; q is the
    likeliest share of the latter if the drop is as supposed, the larger root of
    2n q^2 - (b + c - (2n - b + c) drop) q - c drop (1 - drop) = 0.
    """
    n, b, c = paired.n, paired.only_reference, paired.only_model
    linear = b + c - (2 * n - b + c) * drop
    root = math.sqrt(max(linear**2 + 8 * n * c * drop * (1 - drop), 0.0))
    share = max((linear + root) / (4 * n), -drop, 0.0)
    variance = n * (2 * share + drop - drop**2)
    distance = b - c - n * drop
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def drop_upper(paired: Paired, confidence: float = 0.95) -> float:
    """One-sided upper bound of the drop in accuracy, a fraction in [-1, 1].

    The largest drop that a one-sided score test does not refuse. Its error is close to 1 -
    ``confidence`` also for few disagreements, where Wald intervals are too short.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design", Statistics in Medicine 17.
    """
    z = _z(confidence)
    if paired.only_reference == paired.n:
        return 1.0
    return float(optimize.brentq(lambda d: _score(paired, d) + z, paired.drop, 1.0, xtol=1e-10))


def drop_interval(paired: Paired, confidence: float = 0.95) -> Interval:
    """Two-sided interval of the drop: :func:`drop_upper` at both ends, each at half the error."""
    one_sided = 0.5 + confidence / 2
    swapped = Paired(paired.n, paired.only_model, paired.only_reference)
    return Interval(paired.drop, -drop_upper(swapped, one_sided), drop_upper(paired, one_sided))


def smallest_detectable(
    n: int, disagreement: float, confidence: float = 0.95, power: float = 0.8
) -> float | None:
    """Smallest true difference that ``n`` paired examples show with this power.

    The d that solves d sqrt(n) = z_confidence sqrt(s) + z_power sqrt(s - d^2), s the share of
    examples on which the two models disagree; at least the one of which so many examples as
    :func:`fewest_changes` change sides with this power, without which no exact test tells anything.

    Args:
        n: Examples.
        disagreement: s, a fraction.
        confidence: Of the one-sided test.
        power: Chance to see the difference.

    Returns:
        A fraction; None if ``n`` examples can show no difference at all.

    Raises:
        ValueError: ``n`` below 1 or ``disagreement`` outside [0, 1].

    Source: Connor 1987, "Sample size for testing differences in proportions for the
    paired-sample design", Biometrics 43.
    """
    if n < 1 or not 0.0 <= disagreement <= 1.0:
        raise ValueError(f"expected n >= 1 and a share in [0, 1], got {n} and {disagreement}")
    if n < (fewest := fewest_changes(confidence)):
        return None
    a, b = _z(confidence), _z(power)
    root = math.sqrt(max(a**2 * n - (n + b**2) * (a**2 - b**2), 0.0))
    found = math.sqrt(disagreement) * (a * math.sqrt(n) + root) / (n + b**2)
    # P(at least k of n) = power, each with the chance sought: the inverse of a beta distribution.
    floor = float(scipy_stats.beta.ppf(power, fewest, n - fewest + 1))
    return max(found, floor)


def fewest_changes(confidence: float = 0.95) -> int:
    """So many examples must change sides, all to the worse, to be told from chance: 2^-k <= error.

    The exact one-sided sign test: of fewer even all is as likely as a few heads in a row.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12.
    """
    return math.ceil(-math.log2(1 - confidence))


def certify(bounds: Sequence[float], margin: float = MARGIN) -> int:
    """How many of the points, from the first, are certified to drop by at most ``margin``.

    Fixed-sequence testing: each point is tested at the full level and the first failure ends it,
    which keeps the chance of any false certificate at that of one bound however many points there
    are. The order must be fixed before test is read, the safest point first.

    Args:
        bounds: One-sided upper bounds of the drops on the test examples, smallest ratio first.
        margin: Accepted drop, in the same units.

    Source: Maurer, Hothorn & Lehmacher 1995, "Multiple comparisons in drug clinical trials and
    preclinical assays: a-priori ordered hypotheses".
    """
    passed = [bound <= margin for bound in bounds]
    return passed.index(False) if False in passed else len(passed)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Mean over seeds with its t-interval, mean +- t_{k-1} s / sqrt(k); None below two seeds.

    Raises:
        ValueError: A value that is not finite.

    Source: Student 1908, "The probable error of a mean".
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("values: expected finite numbers")
    if array.size < 2:
        return None
    half = float(scipy_stats.t.ppf(0.5 + confidence / 2, array.size - 1))
    half *= float(array.std(ddof=1)) / math.sqrt(array.size)
    mean = float(array.mean())
    return Interval(mean, mean - half, mean + half)
