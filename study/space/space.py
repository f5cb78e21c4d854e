"""The search space: which knobs a trial has, what each may be, and when it exists at all.

One object serves suggestion (define-by-run), the study's identity (JSON) and the way from a flat
suggestion to a :class:`~trainables.record.Trial`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from compression.adapters import ADAPTERS
from compression.inits import INITS
from compression.methods.chain import split
from compression.registry import (
    Domain,
    InvalidSetting,
    Plugin,
    Scalar,
)
from compression.stats import Need
from study.space.options import (
    AXES,
    SEVERAL,
    TRAINED,
    Option,
    axis_params,
    choice,
    chosen,
    chosen_chain,
    corner_plugins,
    keys_of,
)
from study.space.params import Param, Suggests, corners_of
from study.space.rates import learning_rate, learning_rates
from trainables.record import NONE, Choice, LayerRule, Trial
from trainables.serial import to_json


@dataclass(frozen=True)
class Space:
    """What a study searches. Frozen; its JSON is the space part of the study's identity.

    ``params`` stand in an order in which each follows those that its ``when`` names.
    """

    task: Choice
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
        return list(dict.fromkeys(chosen("rest", corner) for corner in corners_of(own, {})))

    def needs(self) -> frozenset[Need]:
        """What calibration has to compute for some trial."""
        plugins = [p for axis in ("method", "init", "adapter") for p in self._corners(axis)]
        return frozenset(need for plugin in plugins for need in plugin.needs)

    def dense_needs(self) -> frozenset[Need]:
        """What of it is of the dense model: after structure edits all else is taken anew."""
        methods = [split(method) for method in self._corners("method")]
        first = [structural[0] if structural else kept for structural, kept in methods]
        plain = not all(structural for structural, _ in methods)
        later = [p for axis in ("init", "adapter") for p in self._corners(axis)] if plain else []
        return frozenset(need for plugin in (*first, *later) for need in plugin.needs)

    def _corners(self, axis: str) -> Iterator[Any]:
        """Each plugin of an axis, or chain, at the extremes of its knobs."""
        for params in self._with(axis):
            for name in params[axis].corners():
                own = {k: p for k, p in params.items() if k.startswith(keys_of(name))}
                yield from corner_plugins(axis, str(name), own)

    def _with(self, axis: str) -> list[Mapping[str, Param]]:
        """The parameters among which an axis is one."""
        return [self.params] if axis in self.params else []

    def min_fidelity(self) -> int:
        """Epochs before which no trial may be stopped.

        The most that some recipe needs, or until adapters and hooks let ranks and bytes be.
        """
        epochs = [recipe.min_fidelity(self.epochs) for recipe in self._corners("recipe")]
        for axis in ("adapter", "hook"):
            for found in self._corners(axis):
                for one in found if isinstance(found, tuple) else (found,):
                    # 0.55 of 100 is 55, not 55.000...01
                    epochs.append(math.ceil(Fraction(str(one.settled_at)) * self.epochs))
        return max(epochs, default=0)

    def to_json(self) -> dict[str, Any]:
        """Plain data; equal for equal spaces."""
        data: dict[str, Any] = to_json(self)
        return data

    def to_trial(self, params: Mapping[str, Scalar], seed: int) -> Trial:
        """The trial that a flat suggestion asks for.

        Raises:
            InvalidSetting: a combination that the plugin refuses.
        """
        rules = self.rules(params)
        fixed: dict[str, Any] = {
            "task": self.task,
            "layers": rules,
            "rest": chosen("rest", params),
            "seed": seed,
        }
        if all(rule.adapter == NONE for rule in rules):
            return Trial(**fixed)
        return Trial(
            recipe=chosen("recipe", params),
            optimizer=chosen("optimizer", params),
            lr_schedule=chosen("lr_schedule", params),
            losses=_several("loss", params),
            hooks=_several("hook", params),
            lr=self.learning_rate(params),
            batch_size=int(params["batch_size"]),
            epochs=self.epochs,
            precision=self.precision,
            **fixed,
        )

    def rules(self, params: Mapping[str, Scalar]) -> tuple[LayerRule, ...]:
        """What a flat suggestion asks of the layers."""
        return (layer_rule(params),)

    def learning_rate(self, params: Mapping[str, Scalar]) -> float:
        """That of a flat suggestion which trains something."""
        return learning_rate(params)

    def adapters(self) -> dict[str, str]:
        """An adapter for each key that chooses one, the first but ``none``, where there is any."""
        found = {k: p for k, p in self.params.items() if k.rpartition("/")[2] == "adapter"}
        named = {k: [str(a) for a in p.corners() if a != "none"] for k, p in found.items()}
        return {key: names[0] for key, names in named.items() if names}


def layer_rule(params: Mapping[str, Scalar], pattern: str = "*") -> LayerRule:
    """The rule of some layers, from the flat suggestion that is theirs."""
    methods, adapter = chosen_chain("method", params), chosen("adapter", params)
    if adapter == NONE:
        return LayerRule(methods, pattern=pattern)
    alpha = params.get("alpha")
    return LayerRule(
        methods=methods,
        init=chosen("init", params) if "init" in params else Choice("zeros"),
        adapter=adapter,
        rank=int(params.get("rank", 0)),
        alpha=None if alpha is None else float(alpha),
        pattern=pattern,
    )


def _several(axis: str, params: Mapping[str, Scalar]) -> tuple[Choice, ...]:
    """The plugins chosen on an axis, without the one that means nothing."""
    idle = SEVERAL[axis]
    return tuple(c for c in chosen_chain(axis, params) if c.name != idle) if axis in params else ()


def build_space(
    task: Plugin,
    epochs: int,
    options: Mapping[str, Sequence[Option]],
    values: Mapping[str, Domain],
    precision: str = "float32",
) -> Space:
    """Put the axes together: ``options`` by plugin axis, ``values`` by plain one.

    Raises:
        InvalidSetting: two axes would give a knob the same name, or alpha has nothing to set.
    """
    return Space(choice(task), epochs, axes_params(options, values), precision)


def axes_params(
    options: Mapping[str, Sequence[Option]], values: Mapping[str, Domain]
) -> dict[str, Param]:
    """The parameters of some axes, the adapter among them; raises as :func:`build_space`."""
    params: dict[str, Param] = {}
    adapters = [o.name for o in options["adapter"] if o.name != "none"]
    for axis in [*AXES, *values]:
        if axis not in values and axis not in options:
            continue
        able = _having(axis, adapters) if axis in TRAINED else ()
        if axis in TRAINED and not able:
            if axis == "alpha":
                raise InvalidSetting(
                    ["alpha: no adapter has one; leave it out"] if adapters else []
                )
            continue
        when: dict[str, tuple[Scalar, ...]] = {"adapter": tuple(able)} if axis in TRAINED else {}
        if axis in values:
            unless = _without_alpha(options["init"], able) if axis == "alpha" else {}
            found = {axis: Param(values[axis], when, unless)}
        else:
            found = axis_params(axis, options[axis], when)
        if axis == "optimizer":
            found = learning_rates(found, options["optimizer"], options["adapter"])
        if clash := sorted(set(found) & set(params)):
            raise InvalidSetting(
                [f"{axis}: {key} already names another plugin's knob" for key in clash]
            )
        if axis == "init":  # by now it is known which starts leave alpha free
            found |= _of_alpha(params, options, "alpha" in values)
        params |= found
    return params


def _having(axis: str, adapters: Sequence[str]) -> list[str]:
    """The adapters for which an axis means anything."""
    asked = {"rank": "ranked", "alpha": "scaled", "init": "takes_delta"}.get(axis)
    return [name for name in adapters if asked is None or getattr(ADAPTERS[name], asked)]


def _of_alpha(
    params: dict[str, Param], options: Mapping[str, Sequence[Option]], searched: bool
) -> dict[str, Param]:
    """The knobs of adapters that say what alpha means, taken out to where it does.

    Raises:
        InvalidSetting: they are set, and there is no alpha.
    """
    keys = {
        f"{option.name}.{knob}": option
        for option in options["adapter"]
        for knob in ADAPTERS[option.name].of_alpha
        if f"{option.name}.{knob}" in params
    }
    if keys and not searched:
        raise InvalidSetting(
            [f"adapter: {key}: has no effect without an alpha; set space.alpha" for key in keys]
        )
    unless = _without_alpha(options["init"], [option.name for option in keys.values()])
    return {key: replace(params.pop(key), unless=unless) for key in keys}


def _without_alpha(inits: Sequence[Option], adapters: Sequence[str]) -> dict[str, Any]:
    """The inits under which alpha means nothing, as a condition.

    Raises:
        InvalidSetting: it means nothing under any of them, for any of the adapters.
    """
    fixing = tuple(option.name for option in inits if INITS[option.name].fixes_alpha)
    if adapters and len(fixing) == len(inits) and all(ADAPTERS[a].takes_delta for a in adapters):
        why = f"{', '.join(fixing)}: starts at a delta of its own, at scale 1"
        raise InvalidSetting([f"alpha: has no effect under init {why}; leave it out"])
    return {"init": fixing} if fixing and adapters else {}
