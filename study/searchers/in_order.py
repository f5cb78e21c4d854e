"""The sampler of searcher ``grid``. Apart from it, as Optuna is imported where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from study.searchers.base import Exhausted


class InOrder(optuna.samplers.BaseSampler):
    """Counts on from the suggestion before: a function of that alone.

    The last knob that has a value left goes on by one, those before it stay, and those after it
    begin anew, which may be other knobs than before.
    """

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing: each knob is asked for when it is known to exist."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One knob's value.

        Raises:
            TypeError: of a range, which the searcher refuses beforehand.
            Exhausted: the suggestion before was the last combination.
        """
        if not isinstance(param_distribution, CategoricalDistribution):
            raise TypeError(f"{param_name}: a grid has lists of values, got {param_distribution}")
        choices = param_distribution.choices
        if not trial.number:
            return choices[0]
        before = study.get_trials(deepcopy=False)[trial.number - 1]
        kept, moved = _parts(before)
        if param_name not in (*kept, moved):
            return choices[0]
        place = choices.index(before.params[param_name])
        return choices[place + (param_name == moved)]


def _parts(before: FrozenTrial) -> tuple[Sequence[str], str]:
    """The knobs that stay, and the one that goes on, in the order in which they were asked for."""
    names = list(before.params)
    while names:
        name = names.pop()
        distribution = before.distributions[name]
        if before.params[name] != distribution.choices[-1]:  # type: ignore[attr-defined]
            return names, name
    raise Exhausted
