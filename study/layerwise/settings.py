"""What a group of layers can be set to, with the bytes and the loss that each setting is worth."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from compression.registry import InvalidSetting, Scalar
from study.baselines import Typical
from study.layerwise.sizes import Sizes
from study.layerwise.space import Group, LayerwiseSpace
from study.options import corners_of
from trainables.build import resolve_rule
from trainables.record import NONE, Choice, LayerRule

MOST = 400  # settings of one group that are looked at
ZEROS, RECOVERABLE = Choice("zeros"), Choice("residual")

Flat = dict[str, Scalar]
Rules = tuple[LayerRule, ...]
Growths = Mapping[str, Mapping[Rules, float]]
"""By group and :func:`effect`: how much the loss was measured to grow."""


@dataclass(frozen=True)
class Setting:
    """One choice for a group: ``values`` under the names of a uniform space.

    ``bytes`` are those of its weights and adapters; ``loss`` is how much the model's is predicted
    to grow.
    """

    values: tuple[tuple[str, Scalar], ...]
    bytes: int
    loss: float

    @property
    def kind(self) -> tuple[Scalar, Scalar]:
        """Its adapter, and where that starts."""
        own = dict(self.values)
        return own["adapter"], own.get("init", ZEROS.name)


State = Mapping[str, Setting]
"""A setting for each group."""


def effect(rules: Rules) -> Rules:
    """The rules whose untrained loss says what a group's rules are worth.

    An adapter that starts at zeros changes nothing before it is trained. What it can recover is
    measured where it starts at the residual, the best correction of its rank; of one that cannot
    start so nothing is known, and its layers count as if they had none.
    """
    return tuple(map(_effect, rules))


def _effect(rule: LayerRule) -> LayerRule:
    made = resolve_rule(rule)
    if rule.adapter == NONE or rule.init != ZEROS or made.kept.base_is_gone:
        return rule
    if made.adapter.takes_delta:
        return replace(rule, init=RECOVERABLE)
    return LayerRule(rule.methods, pattern=rule.pattern)


def corners(space: LayerwiseSpace, group: Group) -> list[Flat]:
    """What a group can be set to: all values of sets and the ends of ranges, combined.

    Without what the plugins refuse; where there are more than :data:`MOST`, so many of them.
    """
    found: list[Flat] = []
    for values in itertools.islice(corners_of(list(space.of(group).items()), {}), 50 * MOST):
        try:
            for rule in space.group_rules(group, values):
                _ = resolve_rule(rule).method
        except InvalidSetting:
            continue
        found.append(values)
    return [found[i] for i in evenly(len(found), MOST)]


def evenly(count: int, most: int) -> list[int]:
    """At most so many of the numbers below ``count``, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / max(most - 1, 1)) for i in range(most)]


class Settings:
    """The settings of every group, and suggestions made of them."""

    def __init__(self, space: LayerwiseSpace, sizes: Sizes, growths: Growths) -> None:
        self.space, self.sizes, self.growths = space, sizes, growths
        self._at = cache(self._setting)
        self.of = {
            group.name: [self._at(group, tuple(v.items())) for v in corners(space, group)]
            for group in space.groups
        }

    def state(self, params: Mapping[str, Scalar]) -> dict[str, Setting]:
        """What a flat suggestion sets each group to."""
        return {
            group.name: self._at(group, tuple(self.space.chosen(group, params).items()))
            for group in self.space.groups
        }

    def flat(self, state: State, beside: Mapping[str, Scalar]) -> Flat:
        """The suggestion with these settings, and of all else the values ``beside``.

        What a training needs and is not there is as a typical one has it.
        """
        values = dict(beside)
        for group in self.space.groups:
            values |= {group.prefix + key: value for key, value in state[group.name].values}
        return self.space.define(_Given(values))

    def file_bytes(self, params: Mapping[str, Scalar]) -> int:
        """Predicted length of a suggestion's file."""
        return self.sizes.file_bytes(self.space.to_trial(params, 0))

    def _setting(self, group: Group, values: tuple[tuple[str, Scalar], ...]) -> Setting:
        rules = self.space.group_rules(group, dict(values))
        return Setting(values, self.sizes.tensor_bytes(rules), self._growth(group, effect(rules)))

    def _growth(self, group: Group, rules: Rules) -> float:
        """As measured; else as that with the nearest bytes, under the same methods if there is."""
        known = self.growths[group.name]
        if rules in known:
            return known[rules]
        size = self.sizes.tensor_bytes

        def distance(other: Rules) -> tuple[bool, int]:
            return _methods(other) != _methods(rules), abs(size(other) - size(rules))

        return known[min(known, key=distance)] if known else 0.0


def _methods(rules: Rules) -> list[str]:
    return [choice.name for rule in rules for choice in rule.methods]


class _Given(Typical):
    """What is given, else as :class:`study.baselines.Typical`."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        given = self.fixed.get(name)
        return super().suggest_int(name, low, high, log=log) if given is None else int(given)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        given = self.fixed.get(name)
        return super().suggest_float(name, low, high, log=log) if given is None else float(given)


def predicted(state: State) -> float:
    """How much the loss is predicted to grow: the sum over the groups."""
    return sum(setting.loss for setting in state.values())
