"""The trials that every study is held against; they run first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from study.space.space import Space
from trainables.build import resolve_rule
from trainables.hooks import HOOKS
from trainables.recipes import RECIPES
from trainables.record import NONE, Choice, LayerRule, Scalar, Trial

RECOVER = Choice("recover")


def baselines(space: Space, seed: int) -> dict[str, Trial]:
    """By role: the dense model, the same with the search's recovery, an fp16 cast, int8 rounding.

    ``dense_recovered`` gets the adapter and the training budget that the compressed models get:
    without it a compressed model could win by training longer. It is absent when nothing trains.
    """
    plain: dict[str, Any] = {"task": space.task, "seed": seed}
    found = {"dense": Trial(layers=(LayerRule((NONE,)),), **plain)}
    if (recovered := _recovered(space, seed)) is not None:
        found["dense_recovered"] = recovered
    half = LayerRule((Choice("cast"),))
    found["fp16"] = Trial(layers=(half,), rest=Choice("cast"), **plain)
    found["int8"] = Trial(layers=(LayerRule((Choice("rtn", {"bits": 8}),)),), **plain)
    return found


def _recovered(space: Space, seed: int) -> Trial | None:
    adapters = space.adapters()
    if not adapters:
        return None
    inits = {key.removesuffix("adapter") + "init": "zeros" for key in adapters}
    methods = {key: "none" for key in space.params if key.rpartition("/")[2] == "method"}
    params = space.define(Typical({**adapters, **inits}))
    params |= {**methods, **inits, "rest": "none"}
    trial = space.to_trial(params, seed)
    trial = replace(trial, hooks=tuple(filter(partial(_acts, trial), trial.hooks)))
    # A recipe that ends without a base has none to leave as it was.
    return trial if RECIPES[trial.recipe.name].keeps_base else replace(trial, recipe=RECOVER)


def _acts(trial: Trial, hook: Choice) -> bool:
    """Whether a hook can act on the dense model: what prunes it gradually, say, can not."""
    rules = [resolve_rule(rule) for rule in trial.layers]
    methods, adapters = [rule.method for rule in rules], [rule.adapter for rule in rules]
    return not list(HOOKS.build(hook.name, hook.args).refusals(methods, adapters))


class Typical:
    """Suggests the first of some choices, the largest integer, the middle of a range."""

    def __init__(self, fixed: Mapping[str, Scalar]) -> None:
        self.fixed = fixed

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """What is fixed, the largest rank, else the first."""
        if name in self.fixed:
            return self.fixed[name]
        numbers = all(type(c) in (int, float) for c in choices)
        return max(choices) if name.rpartition("/")[2] == "rank" and numbers else choices[0]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """The largest."""
        return high

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The middle."""
        return math.sqrt(low * high) if log else (low + high) / 2
