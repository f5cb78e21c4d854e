"""A study's settings as columns, by the names that they have in its space: ``rtn.bits``, ``rank``.

Records leave out settings at their defaults. What such a setting is at, the space says: the one
value of its list that no record names; else it is known to be the default, and not what that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.load import StudyData
from trainables.record import NONE, Choice, LayerRule, Scalar, Trial

__all__ = ["DEFAULT", "Column", "knobs"]

DEFAULT = "default"
Column = Sequence[Scalar | None]
"""A knob's value in each trial, None where the trial does not have it."""


def knobs(study: StudyData, trials: Sequence[Trial]) -> Mapping[str, Column]:
    """What differs among the trials, a column a knob; seeds are none."""
    settings = [dict(_settings(trial)) for trial in trials]
    owners = [{name for name, _ in _plugins(trial)} for trial in trials]
    names = dict.fromkeys(name for one in settings for name in one)
    columns: dict[str, Column] = {}
    for name in names:
        values = [one.get(name) for one in settings]
        if "." in name:
            held = [name.rpartition(".")[0] in owned for owned in owners]
            default = _default(study, name, values)
            values = [
                default if value is None and has else value
                for value, has in zip(values, held, strict=True)
            ]
        if len({repr(value) for value in values}) > 1:
            columns[name] = values
    return columns


def _default(study: StudyData, name: str, values: Column) -> Scalar | None:
    """What a knob is at where records leave it out; a number that is not known is None."""
    params: Mapping[str, Any] = study.info.get("space", {}).get("params", {})
    listed = params.get(name, {}).get("domain", {}).get("values", ())
    left = [value for value in listed if value not in values]
    if len(left) == 1 and isinstance(left[0], str | int | float | bool):
        return left[0]
    numbers = all(value is None or type(value) in (int, float) for value in values)
    return None if numbers else DEFAULT


def _settings(trial: Trial) -> Iterator[tuple[str, Scalar]]:
    """Every knob that a trial has, but for settings at their defaults."""
    for rule in trial.layers:
        yield from _of_rule(rule)
    yield "rest", trial.rest.name
    if trial.epochs:
        yield "recipe", trial.recipe.name
        yield "optimizer", trial.optimizer.name
        yield f"{trial.optimizer.name}.lr", trial.lr
        yield "lr_schedule", trial.lr_schedule.name
        yield "loss", _joined(trial.losses)
        yield "hook", _joined(trial.hooks)
        yield "batch_size", trial.batch_size
        yield "epochs", trial.epochs
    for owner, plugin in _plugins(trial):
        for key, value in plugin.args.items():
            yield f"{owner}.{key}", value


def _of_rule(rule: LayerRule) -> Iterator[tuple[str, Scalar]]:
    where = _where(rule)
    yield f"{where}method", _joined(rule.methods, "/")
    yield f"{where}adapter", rule.adapter.name
    if rule.adapter != NONE:
        yield f"{where}init", rule.init.name
        yield f"{where}rank", rule.rank
        if rule.alpha is not None:
            yield f"{where}alpha", rule.alpha


def _plugins(trial: Trial) -> Iterator[tuple[str, Choice]]:
    """Everything that may have settings, by the name under which the space has them."""
    for rule in trial.layers:
        where, chain = _where(rule), _joined(rule.methods, "/")
        for method in rule.methods:
            yield (
                f"{where}{method.name if len(rule.methods) == 1 else f'{chain}.{method.name}'}",
                method,
            )
        if rule.adapter != NONE:
            yield f"{where}{rule.init.name}", rule.init
            yield f"{where}{rule.adapter.name}", rule.adapter
    yield trial.rest.name, trial.rest
    if trial.epochs:
        for choice in (trial.recipe, trial.optimizer, trial.lr_schedule):
            yield choice.name, choice
        for choice in (*trial.losses, *trial.hooks):
            yield choice.name, choice


def _where(rule: LayerRule) -> str:
    return "" if rule.pattern == "*" else f"{rule.pattern}: "


def _joined(choices: Sequence[Choice], by: str = " + ") -> str:
    return by.join(choice.name for choice in choices)
