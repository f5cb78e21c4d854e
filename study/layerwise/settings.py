"""What a group of layers can be set to, with the bytes and the loss that each setting is worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from compression.registry import IntRange, InvalidSetting, Scalar, Values
from study.layerwise.sizes import Sizes
from study.layerwise.space import Group, LayerwiseSpace
from study.space.baselines import Typical
from study.space.params import Param, corners_of, some_corners_of
from trainables.build import resolve_rule
from trainables.record import NONE, Choice, LayerRule

MOST = 400  # settings of one group that are looked at
POINTS = 4  # of a range of integers
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
    """What a group can be set to: all values of sets and some of ranges, combined.

    Without what the plugins refuse; where there are more than :data:`MOST`, so many of them.
    """
    found: list[Flat] = []
    params = [(key, _listed(param)) for key, param in space.of(group).items()]
    every = list(itertools.islice(corners_of(params, {}), 2 * MOST + 1))
    for values in every if len(every) <= 2 * MOST else some_corners_of(params, 2 * MOST):
        try:
            for rule in space.group_rules(group, values):
                _ = resolve_rule(rule).method
        except InvalidSetting:
            continue
        found.append(values)
    return [found[i] for i in evenly(len(found), MOST)]


def _listed(param: Param) -> Param:
    """With values in the place of a range of integers: all, or :data:`POINTS` of them."""
    domain = param.domain
    if not isinstance(domain, IntRange):
        return param
    steps = min(domain.high - domain.low, POINTS - 1) or 1
    values = [domain.low + (domain.high - domain.low) * i / steps for i in range(steps + 1)]
    if domain.log:
        values = [domain.low * (domain.high / domain.low) ** (i / steps) for i in range(steps + 1)]
    return replace(param, domain=Values(tuple(dict.fromkeys(map(round, values)))))


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
        """As measured; else between those of the nearest bytes, of the same kind if there are."""
        known = self.growths[group.name]
        if rules in known or not known:
            return known.get(rules, 0.0)
        alike = {o: growth for o, growth in known.items() if _kind(o) == _kind(rules)} or known
        size = self.sizes.tensor_bytes
        return between([(size(other), growth) for other, growth in alike.items()], size(rules))


def _kind(rules: Rules) -> list[str]:
    """Methods and adapters by name."""
    return [choice.name for rule in rules for choice in (*rule.methods, rule.adapter)]


def between(points: Sequence[tuple[int, float]], at: int) -> float:
    """The value at some bytes, of those measured at others; beyond them that of the nearest.

    Logarithmic where both neighbours are above 0, for errors fall by factors; else linear.
    """
    below = max((p for p in points if p[0] <= at), default=None, key=lambda p: (p[0], -p[1]))
    above = min((p for p in points if p[0] >= at), default=None)
    if below is None or above is None or above[0] == below[0]:
        return (below or above or points[0])[1]
    share = (at - below[0]) / (above[0] - below[0])
    if below[1] > 0 and above[1] > 0:
        return math.exp((1 - share) * math.log(below[1]) + share * math.log(above[1]))
    return (1 - share) * below[1] + share * above[1]


class _Given(Typical):
    """What is given, else as :class:`study.space.baselines.Typical`."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        given = self.fixed.get(name)
        return super().suggest_int(name, low, high, log=log) if given is None else int(given)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        given = self.fixed.get(name)
        return super().suggest_float(name, low, high, log=log) if given is None else float(given)


def predicted(state: State) -> float:
    """How much the loss is predicted to grow: the sum over the groups."""
    return sum(setting.loss for setting in state.values())
