"""The sampler of searcher ``quasi_random``. Apart from it, as that one needs no Optuna."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from study.searchers.base import Turn
from study.searchers.whole import WholeSampler


class Sobol(WholeSampler):
    """Reads one point of the sequence, a coordinate a knob."""

    def __init__(self, turn: Turn) -> None:
        self._names = [key for key, param in turn.params.items() if len(param.corners()) > 1]
        # The seed is the study's: all points are of one sequence.
        sequence = qmc.Sobol(max(1, len(self._names)), rng=np.random.default_rng(turn.study_seed))
        if turn.index:
            sequence.fast_forward(turn.index)
        self._point = dict(zip(self._names, sequence.random(1)[0], strict=False))

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value at the knob's coordinate."""
        return _at(param_distribution, float(self._point[param_name]))


def _at(distribution: Any, share: float) -> Any:
    """The value that this share, in [0, 1), of a uniform draw lies below."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    whole = isinstance(distribution, optuna.distributions.IntDistribution)
    # A whole number stands for all that is rounded to it.
    low, high = distribution.low - whole / 2, distribution.high + whole / 2
    if distribution.log:
        value = low * math.exp(share * math.log(high / low))
    else:
        value = low + share * (high - low)
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if whole else value
