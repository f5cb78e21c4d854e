"""What was asked of a trial, in words: every plugin with its options, at their defaults too.

Records leave defaults out. What those are `study.json` says; where an earlier version wrote it, the
space often gives them away: the one value of an option's list that no record names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainables.record import NONE, Choice, LayerRule, Scalar, Trial

__all__ = ["Default", "Defaults", "options", "told", "whole"]

AXES = ("method", "rest", "init", "adapter", "recipe", "optimizer", "lr_schedule", "loss", "hook")
Plugin = tuple[str, str]
"""Axis and name; of ``rest`` they are methods."""


@dataclass(frozen=True)
class Default:
    """An option's value where a record leaves it out, and the other options' under which it is."""

    value: Scalar
    when: Mapping[str, Sequence[Scalar]] = field(default_factory=dict)


@dataclass(frozen=True)
class Defaults:
    """Those of a study, by plugin and option; nothing where they are not known."""

    of: Mapping[Plugin, Mapping[str, Default]] = field(default_factory=dict)

    @classmethod
    def stated(cls, info: Mapping[str, Any]) -> Defaults:
        """As a `study.json` says them, whose form was checked."""
        return cls(
            {
                (axis, name): {
                    option: Default(one["value"], one.get("when", {})) for option, one in of.items()
                }
                for axis, plugins in info["defaults"].items()
                for name, of in plugins.items()
            }
        )

    @classmethod
    def given_away(cls, info: Mapping[str, Any], trials: Sequence[Trial]) -> Defaults:
        """As far as the space gives them away in what these trials of it leave out."""
        listed: dict[Plugin, dict[str, list[Scalar]]] = {}
        when: dict[tuple[Plugin, str], Mapping[str, Sequence[Scalar]]] = {}
        for plugin, option, param, read in _options_of(info):
            values = param.get("domain", {}).get("values", ())
            listed.setdefault(plugin, {}).setdefault(option, []).extend(values)
            when[plugin, option] = read
        used = {choice for trial in trials for choice in _plugins(trial)}
        found: dict[Plugin, dict[str, Default]] = {}
        for plugin, of in listed.items():
            args = [dict(choice.args) for axis, choice in used if (axis, choice.name) == plugin]
            for option, values in of.items():
                left = [v for v in dict.fromkeys(values) if v not in [a.get(option) for a in args]]
                if len(left) == 1 and any(option not in one for one in args):
                    default = Default(left[0], when[plugin, option])
                    found.setdefault(plugin, {})[option] = default
        return cls(found)

    def varied(self, trials: Sequence[Trial]) -> Defaults:
        """Of the options that at least one of these trials sets otherwise."""
        named: dict[Plugin, set[str]] = {}
        for axis, choice in {choice for trial in trials for choice in _plugins(trial)}:
            named.setdefault((axis, choice.name), set()).update(choice.args)
        return Defaults(
            {
                plugin: {name: one for name, one in of.items() if name in named.get(plugin, ())}
                for plugin, of in self.of.items()
            }
        )

    def whole(self, axis: str, choice: Choice) -> Choice:
        """A plugin with all options that have an effect, as far as they are known."""
        known = self.of.get((_axis(axis), choice.name), {})
        values = {name: one.value for name, one in known.items()} | dict(choice.args)
        return Choice(
            choice.name,
            {
                name: value
                for name, value in values.items()
                if name in choice.args or _is_read(known[name], values)
            },
        )


def _is_read(default: Default, values: Mapping[str, Scalar]) -> bool:
    return all(
        other in values and values[other] in wanted for other, wanted in default.when.items()
    )


def _axis(axis: str) -> str:
    return "method" if axis == "rest" else axis


def _options_of(
    info: Mapping[str, Any],
) -> Iterator[tuple[Plugin, str, Mapping[str, Any], Mapping[str, Sequence[Scalar]]]]:
    """Options that a space has a list for: the plugin's, also as a part of a chain."""
    for key, param in info.get("space", {}).get("params", {}).items():
        owner, _, option = key.rpartition(".")
        needs = param.get("when", {})
        axis = next((name for name in needs if name in AXES), None)
        name = owner.rpartition(".")[2]
        if axis is None or not name or "/" in name:
            continue
        others = {k: v for k, v in needs.items() if k.startswith(f"{owner}.")}
        read = {k.removeprefix(f"{owner}."): v for k, v in others.items()}
        yield (_axis(axis), name), option, param, read


def _plugins(trial: Trial) -> Iterator[tuple[str, Choice]]:
    for rule in trial.layers:
        yield from (("method", method) for method in rule.methods)
        yield from (("init", rule.init), ("adapter", rule.adapter))
    yield "method", trial.rest
    yield from (("recipe", trial.recipe), ("optimizer", trial.optimizer))
    yield "lr_schedule", trial.lr_schedule
    yield from (("loss", loss) for loss in trial.losses)
    yield from (("hook", hook) for hook in trial.hooks)


def told(trial: Trial, known: Defaults) -> Iterator[tuple[str, str | int | float]]:
    """All that determines a trial's result, but for the task, as words and values."""

    def each(axis: str, choices: Iterable[Choice]) -> str:
        return " > ".join(str(known.whole(axis, choice)) for choice in choices)

    for rule in trial.layers:
        parts = _of_rule(rule, known)
        if rule.pattern == "*" and len(trial.layers) == 1:
            yield from parts
        else:
            yield f"layers {rule.pattern}", _joined(parts, ", ")
    if trial.rest != NONE:
        yield "rest", each("rest", [trial.rest])
    if trial.epochs:
        yield "recipe", each("recipe", [trial.recipe])
        yield "optimizer", each("optimizer", [trial.optimizer])
        yield "lr", trial.lr
        yield "lr schedule", each("lr_schedule", [trial.lr_schedule])
        if trial.losses:
            yield "losses", each("loss", trial.losses)
        if trial.hooks:
            yield "hooks", each("hook", trial.hooks)
        yield "batch size", trial.batch_size
        yield "epochs", trial.epochs
        yield "precision", trial.precision
    yield "seed", trial.seed


def _of_rule(rule: LayerRule, known: Defaults) -> Iterator[tuple[str, str | int | float]]:
    yield "method", " > ".join(str(known.whole("method", method)) for method in rule.methods)
    if rule.adapter != NONE:
        yield "init", str(known.whole("init", rule.init))
        yield "adapter", str(known.whole("adapter", rule.adapter))
        if rule.rank:
            yield "rank", rule.rank
            yield "alpha", "as the rank" if rule.alpha is None else rule.alpha


def whole(trial: Trial, known: Defaults) -> str:
    """The same in one line: ``method rtn(bits=4); ...; optimizer adam(...); lr 0.01; seed 0``."""
    return _joined(told(trial, known), "; ")


def _joined(pairs: Iterable[tuple[str, str | int | float]], by: str) -> str:
    return by.join(f"{word} {value}" for word, value in pairs)


def options(trial: Trial, known: Defaults) -> str:
    """The methods' options alone: ``bits=4 group_size=32``, of several methods with their names."""
    methods = dict.fromkeys(m for rule in trial.layers for m in rule.methods)
    parts = []
    for method in methods:
        before = f"{method.name}." if len(methods) > 1 else ""
        args = known.whole("method", method).args
        parts += [f"{before}{name}={value}" for name, value in args.items()]
    return " ".join(parts)
