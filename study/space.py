"""The search space: which knobs a trial has, what each may be, and when it exists at all.

One object serves suggestion (define-by-run), the study's identity (JSON) and the way from a flat
suggestion to a :class:`~trainables.record.Trial`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any, Protocol

from compression.adapters import ADAPTERS
from compression.inits import INITS
from compression.methods import METHODS, chain
from compression.registry import (
    Domain,
    FloatRange,
    IntRange,
    InvalidSetting,
    Knob,
    Plugin,
    Registry,
    Scalar,
    Values,
)
from compression.stats import Need
from trainables.lr_schedules import LR_SCHEDULES
from trainables.optimizers import OPTIMIZERS, Optimizer
from trainables.record import NONE, Choice, LayerRule, Trial
from trainables.serial import to_json

AXES: dict[str, Registry[Any]] = {
    "method": METHODS,
    "rest": METHODS,
    "adapter": ADAPTERS,
    "init": INITS,
    "optimizer": OPTIMIZERS,
    "lr_schedule": LR_SCHEDULES,
}
# What exists only where something is trained.
TRAINED = ("init", "rank", "alpha", "optimizer", "lr_schedule", "batch_size")
CHAINED = "+"  # between the names of a chain of methods
_LEARNING_RATES = FloatRange(1e-9, 1e3, log=True)
_MOST_CORNERS = 5_000


class Suggests(Protocol):
    """The part of ``optuna.trial.Trial`` that a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...  # noqa: D102
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...  # noqa: D102
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Option:
    """A plugin that a study tries, and the knobs for which the user said what to try.

    A chain of methods has these as ``parts``, and their names joined by ``+``.
    """

    name: str
    domains: Mapping[str, Domain] = field(default_factory=dict)
    parts: tuple[Option, ...] = ()

    @classmethod
    def chain(cls, parts: Sequence[Option]) -> Option:
        """Methods one after the other."""
        return cls(CHAINED.join(part.name for part in parts), parts=tuple(parts))

    def plugins(self) -> list[tuple[Option, str]]:
        """What it consists of, with the prefix of each one's knobs."""
        own = _keys(self.name)
        return [(part, f"{own}{part.name}.") for part in self.parts] or [(self, own)]


@dataclass(frozen=True)
class Param:
    """One entry of the flat suggestion; it exists where each key of ``when`` has such a value."""

    domain: Domain
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    def applies(self, chosen: Mapping[str, Scalar]) -> bool:
        """Whether the parameter exists beside those chosen so far."""
        return all(key in chosen and chosen[key] in v for key, v in self.when.items())

    def suggest(self, name: str, trial: Suggests) -> Scalar:
        """Ask for a value; what can be only one thing is not asked for."""
        d = self.domain
        if len(corners := self.corners()) == 1:
            return corners[0]
        if isinstance(d, Values):
            value: Scalar = trial.suggest_categorical(name, list(d.values))
            return value
        if isinstance(d, IntRange):
            return trial.suggest_int(name, d.low, d.high, log=d.log)
        return trial.suggest_float(name, d.low, d.high, log=d.log)

    def corners(self) -> tuple[Scalar, ...]:
        """All values of a finite set, the two ends of a range."""
        d = self.domain
        return d.values if isinstance(d, Values) else tuple(dict.fromkeys((d.low, d.high)))


@dataclass(frozen=True)
class Space:
    """What a study searches. Frozen; its JSON is the space part of the study's identity.

    ``params`` stand in an order in which each follows those that its ``when`` names.
    """

    task: Choice
    recipe: Choice
    epochs: int
    params: Mapping[str, Param]
    precision: str = "float32"

    def define(self, trial: Suggests) -> dict[str, Scalar]:
        """Ask an Optuna trial for one flat suggestion, constants included."""
        chosen: dict[str, Scalar] = {}
        for key, param in self.params.items():
            if param.applies(chosen):
                chosen[key] = param.suggest(key, trial)
        return chosen

    def rests(self) -> list[Choice]:
        """What may be done to the tensors that no rule compresses; of a range, its ends."""
        own = [(k, p) for k, p in self.params.items() if k == "rest" or k.startswith("rest.")]
        return list(dict.fromkeys(_choice("rest", corner) for corner in _corners(own, {})))

    def needs(self) -> frozenset[Need]:
        """What calibration has to compute for some trial."""
        found: set[Need] = set()
        for axis in ("method", "init"):
            for name in self.params[axis].corners() if axis in self.params else ():
                own = {k: p for k, p in self.params.items() if k.startswith(_keys(name))}
                for plugin in corner_plugins(axis, str(name), own):
                    found |= plugin.needs
        return frozenset(found)

    def to_json(self) -> dict[str, Any]:
        """Plain data; equal for equal spaces."""
        data: dict[str, Any] = to_json(self)
        return data

    def to_trial(self, params: Mapping[str, Scalar], seed: int) -> Trial:
        """The trial that a flat suggestion asks for.

        Raises:
            InvalidSetting: a combination that the plugin refuses.
        """
        rule = LayerRule(methods=_choices("method", params))
        fixed: dict[str, Any] = {
            "task": self.task,
            "recipe": self.recipe,
            "rest": _choice("rest", params),
            "seed": seed,
        }
        adapter = _choice("adapter", params)
        if adapter == NONE:
            return Trial(layers=(rule,), **fixed)
        alpha = params.get("alpha")
        rule = LayerRule(
            methods=rule.methods,
            init=_choice("init", params),
            adapter=adapter,
            rank=int(params["rank"]),
            alpha=None if alpha is None else float(alpha),
        )
        return Trial(
            layers=(rule,),
            optimizer=_choice("optimizer", params),
            lr_schedule=_choice("lr_schedule", params),
            lr=float(params[f"{params['optimizer']}.lr"]),
            batch_size=int(params["batch_size"]),
            epochs=self.epochs,
            precision=self.precision,
            **fixed,
        )


def build_space(
    task: Plugin,
    recipe: Plugin,
    epochs: int,
    options: Mapping[str, Sequence[Option]],
    values: Mapping[str, Domain],
    precision: str = "float32",
) -> Space:
    """Put the axes together: ``options`` by plugin axis, ``values`` by plain one.

    Raises:
        InvalidSetting: two axes would give a knob the same name.
    """
    params: dict[str, Param] = {}
    adapted = tuple(o.name for o in options["adapter"] if o.name != "none")
    for axis in [*AXES, *values]:
        when = {"adapter": adapted} if axis in TRAINED else {}
        found = (
            {axis: Param(values[axis], when)}
            if axis in values
            else axis_params(axis, options[axis], when)
        )
        if clash := sorted(set(found) & set(params)):
            raise InvalidSetting(
                [f"{axis}: {key} already names another plugin's knob" for key in clash]
            )
        if adapted or not when:
            params |= found
    return Space(choice(task), choice(recipe), epochs, params, precision)


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
    """The plugin of an option, or the first of its chain, at the extremes of its knobs.

    Combinations that it refuses are left out; see :func:`option_problems`.
    """
    found = _corners(list(params.items()), {axis: name})
    for corner in itertools.islice(found, _MOST_CORNERS):
        with suppress(InvalidSetting):
            first = _choices(axis, corner)[0]
            yield AXES[axis].build(first.name, first.args)


def option_problems(axis: str, option: Option) -> list[str]:
    """What the plugin says against combinations of the extremes of its knobs, without repeats."""
    params = option_params(axis, option)
    found: dict[str, None] = {}
    for corner in itertools.islice(
        _corners(list(params.items()), {axis: option.name}), _MOST_CORNERS
    ):
        try:
            chain_problems(axis, _choices(axis, corner))
        except InvalidSetting as error:
            found |= dict.fromkeys(error.errors)
    return list(found)


def _corners(
    params: Sequence[tuple[str, Param]], chosen: dict[str, Scalar]
) -> Iterator[dict[str, Scalar]]:
    if not params:
        yield chosen
        return
    (key, param), *rest = params
    if not param.applies(chosen):
        yield from _corners(rest, chosen)
        return
    for value in param.corners():
        yield from _corners(rest, {**chosen, key: value})


def knobs_of(plugin: type[Plugin]) -> dict[str, Knob]:
    """The knobs a config may set: the plugin's own, and for an optimizer its learning rate."""
    if issubclass(plugin, Optimizer):
        return {"lr": Knob(_LEARNING_RATES, search=plugin.lr), **plugin.knobs()}
    return plugin.knobs()


def choice(plugin: Plugin) -> Choice:
    """The plugin as records name it: defaults left out."""
    return Choice(plugin.name, plugin.args())


def chain_problems(axis: str, choices: Sequence[Choice]) -> None:
    """Find out whether methods can follow each other.

    Raises:
        InvalidSetting: they can't.
    """
    if len(choices) > 1:
        chain([AXES[axis].build(c.name, c.args) for c in choices])


def _choice(axis: str, params: Mapping[str, Scalar]) -> Choice:
    (found,) = _choices(axis, params)
    return found


def _choices(axis: str, params: Mapping[str, Scalar]) -> tuple[Choice, ...]:
    """The plugin chosen on an axis; of a chain all of them."""
    name, registry = str(params[axis]), AXES[axis]
    names, found = name.split(CHAINED), []
    for part in names:
        prefix = _at(axis, _keys(name) + (f"{part}." if len(names) > 1 else ""))
        own = set(registry[part].knobs())
        args = {k: params[prefix + k] for k in own if prefix + k in params}
        found.append(choice(registry.build(part, args)))
    return tuple(found)


def _keys(name: object) -> str:
    """What the knobs of an option begin with. MLflow takes no ``+`` in a key."""
    return f"{str(name).replace(CHAINED, '/')}."


def _at(axis: str, prefix: str) -> str:
    # `rest` takes methods too: its knobs must not meet those of the axis `method`.
    return f"rest.{prefix}" if axis == "rest" else prefix
