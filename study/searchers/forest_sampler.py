"""The sampler of searcher ``forest``. Apart from it, as Optuna is imported where it is used."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from compression.registry import IntRange, Scalar, Values
from study.searchers.base import Turn
from study.searchers.encoding import Codes, Encoding
from study.searchers.improvement import growth, scalarised
from study.searchers.seen import Seen
from study.space.params import Param

Array = NDArray[np.float64]
LEAST = 4  # ended trials to learn from
CHANGED = 0.15  # of a neighbour's parameters
CHEAPEST = 1e-3  # of the dearest trial's cost
MARGIN = 0.1
STRICTNESS = 10.0  # e to the minus this is what is left of a setting that breaks a constraint by 1


class Rule(Protocol):
    """See the knobs of :class:`study.searchers.forest.Forest`."""

    @property
    def startup(self) -> int: ...  # noqa: D102
    @property
    def trees(self) -> int: ...  # noqa: D102
    @property
    def candidates(self) -> int: ...  # noqa: D102
    @property
    def random(self) -> float: ...  # noqa: D102
    @property
    def thrift(self) -> float: ...  # noqa: D102


class ForestSampler(optuna.samplers.BaseSampler):
    """Chooses one whole setting; what Optuna then asks for is read from it."""

    def __init__(self, turn: Turn, rule: Rule) -> None:
        self._turn, self._rng = turn, np.random.default_rng(turn.seed)
        self._rule = rule
        self._encoding = turn.memo.get("encoding") or Encoding(turn.params)
        turn.memo["encoding"] = self._encoding
        self._params: dict[str, Scalar] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters of the setting that is chosen now."""
        encoding = self._encoding
        if self._turn.index < self._rule.startup:
            row = self._spread()
        else:
            coded = self._turn.memo.setdefault("codes", {})
            row = self._chosen(Seen.of(study, encoding, coded))
        self._params = encoding.decode(row)
        asked = {k: p for k, p in encoding.params.items() if k in self._params}
        return {k: distribution(p) for k, p in asked.items() if len(p.corners()) > 1}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Their values."""
        return {key: self._params[key] for key in search_space}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """What the setting lacks because others of it are fixed from outside."""
        random = optuna.samplers.RandomSampler(seed=int(self._rng.integers(2**31)))
        return random.sample_independent(study, trial, param_name, param_distribution)

    def _spread(self) -> Codes:
        """One of the first settings, which together spread over the space."""
        design = np.random.default_rng(self._turn.study_seed)
        row: Codes = self._encoding.spread(design, self._rule.startup)[self._turn.index]
        return row

    def _chosen(self, seen: Seen) -> Codes:
        if len(seen) < LEAST or self._rng.random() < self._rule.random:
            anywhere: Codes = self._encoding.draw(self._rng, 1)[0]
            return anywhere
        candidates = self._candidates(seen)
        best: Codes = candidates[int(self._values(seen, candidates).argmax())]
        return best

    def _candidates(self, seen: Seen) -> Codes:
        """Random settings and neighbours of the front's, none of which was tried."""
        half = self._rule.candidates // 2
        drawn = self._encoding.draw(self._rng, half)
        parents = seen.codes[self._rng.choice(seen.front, half)]
        both = np.concatenate([drawn, self._encoding.changed(parents, self._rng, CHANGED)])
        new = np.array([row.tobytes() not in seen.tried for row in both])
        kept: Codes = both[new] if new.any() else both
        return kept

    def _values(self, seen: Seen, candidates: Codes) -> Array:
        """Expected growth of the front, for the cost; (candidates,)."""
        n, features = len(candidates), self._encoding.features
        asked = features(np.concatenate([candidates, seen.running]))
        rows, shares, reached = seen.points.T
        known = features(seen.codes)
        curves = np.column_stack([known[rows.astype(int)], shares])
        ends = np.column_stack([asked, np.ones(len(asked))])
        metric = self._forest(self._rule.trees, curves, reached, ends)
        rest = np.column_stack([seen.losses[:, 1:], seen.log_cost, seen.violation])
        # Their mean is all that is wanted, and needs fewer trees than a spread.
        fewer = self._forest(max(1, self._rule.trees // 2), known, rest, asked)
        *sizes, log_cost, violation = fewer.mean(axis=0).T
        every = np.broadcast_to(np.transpose(sizes), (len(metric), len(asked), len(sizes)))
        predicted = np.concatenate([metric, every], axis=2)  # (trees, settings, objectives)
        # Trials that run are taken to come out as predicted, so that workers spread.
        believed = np.concatenate([seen.losses[seen.front], predicted[:, n:].mean(axis=0)])
        # A little beyond the worst that was seen: the front may reach further at either end.
        corner = seen.losses.max(axis=0) + MARGIN * np.ptp(seen.losses, axis=0)
        gain = self._growth(predicted[:, :n], believed, corner)
        gain = gain * np.exp(-STRICTNESS * np.maximum(violation[:n], 0.0))
        cost = np.maximum(np.exp(log_cost[:n] - seen.log_cost.max()), CHEAPEST)
        value: Array = gain / cost**self._rule.thrift
        return value

    def _growth(self, predicted: Array, front: Array, corner: Array) -> Array:
        """Means over trees of (trees, n, m) predictions' growth of the front, (n,)."""
        trees, n, m = predicted.shape
        if m == 2:
            area = growth(predicted.reshape(-1, m), front, corner)
            expected: Array = area.reshape(trees, n).mean(axis=0)
            return expected
        weights, low = self._rng.dirichlet(np.ones(m)), front.min(axis=0)
        span = np.where(corner > low, corner - low, 1.0)
        best = scalarised((front - low) / span, weights).min()
        closer = np.maximum(best - scalarised((predicted - low) / span, weights), 0.0)
        mean: Array = closer.mean(axis=0)
        return mean

    def _forest(self, trees: int, inputs: Array, targets: Array, asked: Array) -> Array:
        """Predictions of extremely randomised trees, (trees, n, targets)."""
        from sklearn import config_context
        from sklearn.tree import ExtraTreeRegressor

        targets = targets.reshape(len(inputs), -1)
        centre, scale = targets.mean(axis=0), targets.std(axis=0)
        scaled = (targets - centre) / np.where(scale > 0, scale, 1.0)
        inputs, asked = inputs.astype(np.float32), asked.astype(np.float32)
        # One for all: to seed one a tree takes a quarter of its time.
        draws = np.random.RandomState(int(self._rng.integers(2**31)))
        found = []
        with config_context(skip_parameter_validation=True):  # a fifth of the time, of our words
            for _ in range(trees):
                tree = ExtraTreeRegressor(max_features="sqrt", random_state=draws)
                tree.fit(inputs, scaled, check_input=False)
                found.append(tree.tree_.predict(asked).reshape(len(asked), -1))
        predictions: Array = np.stack(found) * scale + centre
        return predictions


def distribution(param: Param) -> BaseDistribution:
    """What Optuna calls a parameter's domain, as :meth:`study.space.params.Param.suggest` asks."""
    domain: Any = param.domain
    if isinstance(domain, Values):
        return CategoricalDistribution(list(domain.values))
    if isinstance(domain, IntRange):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
