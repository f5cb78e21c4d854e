"""The search space of a model whose groups of layers each have their own choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compression.registry import Domain, InvalidSetting, Plugin, Scalar
from compression.rules import patterns
from study.layerwise.config import LayerwiseConfig
from study.space.options import AXES, Option, axis_params, choice
from study.space.params import Param, Trained, corners_of
from study.space.rates import common_rates
from study.space.space import Space, axes_params, layer_rule
from trainables.record import LayerRule

CHOSEN, PLAIN = ("method", "init", "adapter"), ("rank", "alpha")  # by each group


@dataclass(frozen=True)
class Group:
    """Layers that go together: those that match a pattern, and none of an earlier group."""

    name: str
    patterns: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """What the keys of its parameters begin with."""
        return f"{self.name}/"


@dataclass(frozen=True)
class LayerwiseSpace(Space):
    """A space with parameters ``GROUP/method``, ``GROUP/rank``, ... and one training for all."""

    groups: tuple[Group, ...] = ()

    def of(self, group: Group) -> dict[str, Param]:
        """The parameters of a group, under the names that they have in a uniform space."""
        return {
            key.removeprefix(group.prefix): _renamed(param, group.prefix, "")
            for key, param in self.params.items()
            if key.startswith(group.prefix)
        }

    def chosen(self, group: Group, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """What a flat suggestion has for a group, under the names of a uniform space."""
        own = len(group.prefix)
        return {k[own:]: value for k, value in params.items() if k.startswith(group.prefix)}

    def group_rules(self, group: Group, own: Mapping[str, Scalar]) -> tuple[LayerRule, ...]:
        """The rules of a group, one for each of its patterns."""
        return tuple(layer_rule(own, pattern) for pattern in group.patterns)

    def besides(self) -> list[dict[str, Scalar]]:
        """What may be done to the tensors of no group, as parts of flat suggestions."""
        own = [(k, p) for k, p in self.params.items() if k == "rest" or k.startswith("rest.")]
        return list(corners_of(own, {}))

    def rules(self, params: Mapping[str, Scalar]) -> tuple[LayerRule, ...]:
        """See :class:`Space`: group after group, so that the first which matches a layer has it."""
        return tuple(
            rule
            for group in self.groups
            for rule in self.group_rules(group, self.chosen(group, params))
        )

    def learning_rate(self, params: Mapping[str, Scalar]) -> float:
        """See :class:`Space`: one for all groups."""
        return float(params[f"{params['optimizer']}.lr"])

    def _with(self, axis: str) -> list[Mapping[str, Param]]:
        if axis not in CHOSEN:
            return super()._with(axis)
        return [own for own in map(self.of, self.groups) if axis in own]


def _renamed(param: Param, old: str, new: str) -> Param:
    """A parameter with other names in its conditions."""
    when, unless = (
        {new + key.removeprefix(old): values for key, values in condition.items()}
        for condition in (param.when, param.unless)
    )
    return Param(param.domain, when, unless)


def build_layerwise(
    task: Plugin,
    epochs: int,
    layerwise: LayerwiseConfig,
    options: Mapping[str, Sequence[Option]],
    values: Mapping[str, Domain],
    precision: str = "float32",
) -> LayerwiseSpace:
    """Put the axes together: those of each group, then those of the training, in ``options``.

    Raises:
        InvalidSetting: two axes would give a knob the same name, or a group's alpha has nothing to
            set.
    """
    params: dict[str, Param] = {}
    groups, adapters = list[Group](), dict[str, list[str]]()
    for name, given in layerwise.groups.items():
        group = Group(name, patterns(given.layers))
        own = {axis: getattr(given, axis) for axis in CHOSEN}
        plain = {k: d for k in PLAIN if (d := getattr(given, k)) is not None}
        try:
            found = axes_params(own, plain)
        except InvalidSetting as error:
            texts = [f"layerwise.groups.{name}.{text}" for text in error.errors]
            raise InvalidSetting(texts) from None
        params |= {group.prefix + k: _renamed(p, "", group.prefix) for k, p in found.items()}
        if trained := [str(a) for a in found["adapter"].corners() if a != "none"]:
            adapters[f"{group.prefix}adapter"] = trained
        groups.append(group)
    found = _training(options, values, adapters)
    if clash := sorted(set(found) & set(params)):
        raise InvalidSetting(
            [f"layerwise: {key} is a knob already; rename a group" for key in clash]
        )
    return LayerwiseSpace(choice(task), epochs, params | found, precision, tuple(groups))


def _training(
    options: Mapping[str, Sequence[Option]],
    values: Mapping[str, Domain],
    adapters: Mapping[str, Sequence[str]],
) -> dict[str, Param]:
    """What is one for the model: ``rest``, and where some group is adapted how it is trained."""
    params: dict[str, Param] = {}
    for axis in AXES:
        if axis in CHOSEN or axis not in options or (axis != "rest" and not adapters):
            continue
        found = axis_params(axis, options[axis], {})
        if axis == "optimizer":
            names = [name for several in adapters.values() for name in several]
            found = common_rates(found, options[axis], names)
        if axis != "rest":
            found[axis] = Trained(found[axis].domain, adapters=tuple(adapters))
        params |= found
    if adapters:
        params["batch_size"] = Trained(values["batch_size"], adapters=tuple(adapters))
    return params
