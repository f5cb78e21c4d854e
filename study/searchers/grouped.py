"""The sampler of searcher ``tpe``. Apart from it, as that one needs no Optuna."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from study.searchers.whole import WholeSampler

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class Grouped(WholeSampler):
    """Draws knobs that always exist together jointly, each such group when it is asked for.

    As Optuna's own ``group=True``, which draws every group of the space, also those that the
    suggestion turns out not to have: of many methods with knobs of their own nearly all.
    """

    def __init__(self, joint: optuna.samplers.BaseSampler) -> None:
        self._joint = joint
        self._groups: dict[str, dict[str, BaseDistribution]] | None = None
        self._drawn: dict[str, Any] = {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A knob's value, drawn with the others of its group."""
        if self._groups is None:
            self._groups = groups(study.get_trials(deepcopy=False, states=_ENDED))
        if param_name not in self._drawn:
            group = self._groups.get(param_name, {param_name: param_distribution})
            self._drawn |= self._joint.sample_relative(study, trial, group)
        if param_name not in self._drawn:  # too little was tried to learn from
            alone = self._joint.sample_independent(study, trial, param_name, param_distribution)
            self._drawn[param_name] = alone
        return self._drawn[param_name]


def groups(trials: Iterable[FrozenTrial]) -> dict[str, dict[str, BaseDistribution]]:
    """By knob, the knobs that exist in exactly the trials in which it does; itself is one."""
    kinds = {frozenset(trial.distributions): trial.distributions for trial in trials}
    where: dict[str, frozenset[int]] = {}
    for index, names in enumerate(kinds):
        for name in names:
            where[name] = where.get(name, frozenset()) | {index}
    known = {name: kind[name] for kind in kinds.values() for name in kind}
    members: dict[frozenset[int], dict[str, BaseDistribution]] = {}
    for name in sorted(where):  # a set's order is not the same in every process
        members.setdefault(where[name], {})[name] = known[name]
    return {name: members[where[name]] for name in where}
