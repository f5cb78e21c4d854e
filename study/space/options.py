"""What a study tries of one plugin: its knobs, when each exists, and the choices they add up to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

from compression.adapters import ADAPTERS, Adapter, NoAdapter
from compression.inits import INITS
from compression.methods import METHODS, chain
from compression.registry import (
    Domain,
    FloatRange,
    InvalidSetting,
    Knob,
    Plugin,
    Registry,
    Scalar,
    Values,
)
from study.space.params import Param, corners_of
from trainables.hooks import HOOKS
from trainables.losses import LOSSES
from trainables.lr_schedules import LR_SCHEDULES
from trainables.optimizers import OPTIMIZERS, Optimizer
from trainables.recipes import RECIPES
from trainables.record import Choice

AXES: dict[str, Registry[Any]] = {
    "method": METHODS,
    "rest": METHODS,
    "adapter": ADAPTERS,
    "init": INITS,
    "recipe": RECIPES,
    "optimizer": OPTIMIZERS,
    "lr_schedule": LR_SCHEDULES,
    "loss": LOSSES,
    "hook": HOOKS,
}
# What exists only where something is trained.
TRAINED = (*AXES.keys() - {"method", "rest", "adapter"}, "rank", "alpha", "batch_size")
# Axes of which several plugins may work together, and the one on each that means nothing then.
SEVERAL = {"method": "none", "loss": "task", "hook": "none"}
CHAINED = "+"  # between the names of those
_LEARNING_RATES = FloatRange(1e-9, 1e3, log=True)
_MOST_CORNERS = 5_000


@dataclass(frozen=True)
class Option:
    """A plugin that a study tries, and the knobs for which the user said what to try.

    Several that work together, as a chain of methods, are its ``parts``, and it has their names
    joined by ``+``.
    """

    name: str
    domains: Mapping[str, Domain] = field(default_factory=dict)
    parts: tuple[Option, ...] = ()

    @classmethod
    def chain(cls, parts: Sequence[Option]) -> Option:
        """Plugins one after the other."""
        return cls(CHAINED.join(part.name for part in parts), parts=tuple(parts))

    def plugins(self) -> list[tuple[Option, str]]:
        """What it consists of, with the prefix of each one's knobs."""
        own = keys_of(self.name)
        return [(part, f"{own}{part.name}.") for part in self.parts] or [(self, own)]


def axis_params(
    axis: str, options: Sequence[Option], when: Mapping[str, tuple[Scalar, ...]]
) -> dict[str, Param]:
    """The choice among the options, then the knobs of each."""
    params = {axis: Param(Values(tuple(o.name for o in options)), when)}
    for option in options:
        # The option's own condition implies `when`: the axis is absent where `when` fails.
        params |= option_params(axis, option)
    return params


def option_params(axis: str, option: Option) -> dict[str, Param]:
    """The knobs of one option that a study sets, each after those it depends on.

    Raises:
        InvalidSetting: the user set a knob that can have no effect beside the others.
    """
    when: dict[str, tuple[Scalar, ...]] = {axis: (option.name,)}
    params: dict[str, Param] = {}
    for plugin, prefix in option.plugins():
        params |= _plugin_params(axis, plugin, _at(axis, prefix), when)
    return params


def _plugin_params(
    axis: str, option: Option, prefix: str, chosen: Mapping[str, tuple[Scalar, ...]]
) -> dict[str, Param]:
    known = knobs_of(AXES[axis][option.name])
    defaults = AXES[axis][option.name]()
    errors = list[str]()
    params: dict[str, Param] = {}
    for name in TopologicalSorter({k: v.when for k, v in known.items()}).static_order():
        domain = option.domains.get(name, known[name].search)
        if domain is None:
            continue
        when = dict(chosen)
        for other, wanted in known[name].when.items():
            if parent := params.get(prefix + other):
                possible = any(parent.domain.problem(v) is None for v in wanted)
                when[prefix + other] = wanted
            else:
                possible = getattr(defaults, other) in wanted
            if not possible:
                if name in option.domains:
                    needs = f"{other} is {' or '.join(map(str, wanted))}"
                    errors.append(f"{name}: has no effect here; it is read only when {needs}")
                break
        else:
            params[prefix + name] = Param(domain, when)
    if errors:
        raise InvalidSetting(errors)
    return params


def corner_plugins(axis: str, name: str, params: Mapping[str, Param]) -> Iterator[Any]:
    """The plugin of an option, or its chain, at the extremes of its knobs.

    Combinations that it refuses are left out; see :func:`option_problems`.
    """
    for corner in _some_corners(axis, name, params):
        with suppress(InvalidSetting):
            yield _built(axis, corner)


def option_problems(axis: str, option: Option) -> list[str]:
    """What plugins say against combinations of the extremes of their knobs, without repeats."""
    found: dict[str, None] = {}
    for corner in _some_corners(axis, option.name, option_params(axis, option)):
        try:
            _built(axis, corner)
        except InvalidSetting as error:
            found |= dict.fromkeys(error.errors)
    return list(found)


def _some_corners(axis: str, name: str, params: Mapping[str, Param]) -> Iterator[dict[str, Scalar]]:
    return itertools.islice(corners_of(list(params.items()), {axis: name}), _MOST_CORNERS)


def _built(axis: str, params: Mapping[str, Scalar]) -> Any:
    """The plugin that is chosen, the chain of methods, or several others as a tuple."""
    made = [AXES[axis].build(c.name, c.args) for c in chosen_chain(axis, params)]
    if len(made) == 1:
        return made[0]
    return chain(made) if axis == "method" else tuple(made)


def knobs_of(plugin: type[Plugin]) -> dict[str, Knob]:
    """The knobs a config may set: the plugin's own, and learning rates.

    That of an optimizer is searched; of an adapter it is set where it shall differ from that.
    """
    if issubclass(plugin, Optimizer):
        return {"lr": Knob(_LEARNING_RATES, search=plugin.lr), **plugin.knobs()}
    if issubclass(plugin, Adapter) and plugin is not NoAdapter:
        return {"lr": Knob(_LEARNING_RATES), **plugin.knobs()}
    return plugin.knobs()


def choice(plugin: Plugin) -> Choice:
    """The plugin as records name it: defaults left out."""
    return Choice(plugin.name, plugin.args())


def chosen(axis: str, params: Mapping[str, Scalar]) -> Choice:
    """The plugin chosen on an axis."""
    (found,) = chosen_chain(axis, params)
    return found


def chosen_chain(axis: str, params: Mapping[str, Scalar]) -> tuple[Choice, ...]:
    """The plugin chosen on an axis; of several all of them."""
    name, registry = str(params[axis]), AXES[axis]
    names, found = name.split(CHAINED), []
    for part in names:
        prefix = _at(axis, keys_of(name) + (f"{part}." if len(names) > 1 else ""))
        own = set(registry[part].knobs())
        args = {k: params[prefix + k] for k in own if prefix + k in params}
        found.append(choice(registry.build(part, args)))
    return tuple(found)


def keys_of(name: object) -> str:
    """What the knobs of an option begin with. MLflow takes no ``+`` in a key."""
    return f"{str(name).replace(CHAINED, '/')}."


def _at(axis: str, prefix: str) -> str:
    # `rest` takes methods too: its knobs must not meet those of the axis `method`.
    return f"rest.{prefix}" if axis == "rest" else prefix
