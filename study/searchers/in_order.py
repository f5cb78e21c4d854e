"""The sampler of searcher ``grid``. Apart from it, as that one needs no Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from compression.registry import Scalar
from study.searchers.base import Exhausted, Turn
from study.searchers.whole import WholeSampler
from study.space.params import Param

_NOTE = "grid"  # the combination of a suggestion and its index, at the trial


class InOrder(WholeSampler):
    """Counts on from the combination before, as a note at the trials before says which it was.

    What was suggested instead of a combination, or inherited, is thus passed over.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._combination: Mapping[str, Scalar] = {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing of its own: moves on, and leaves the note.

        Raises:
            Exhausted: the suggestion before was the last combination.
        """
        notes = (t.system_attrs.get(_NOTE) for t in reversed(study.get_trials(deepcopy=False)))
        last = next((note for note in notes if note), None)
        if last is None:
            self._combination = _first(self._turn.params, {})
        elif last["index"] == self._turn.index:  # a suggestion of somebody else's came between
            self._combination = last["params"]
        else:
            self._combination = following(self._turn.params, last["params"])
        note: Any = {"index": self._turn.index, "params": dict(self._combination)}
        study._storage.set_trial_system_attr(trial._trial_id, _NOTE, note)
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One knob's value."""
        return self._combination[param_name]


def following(params: Mapping[str, Param], before: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The combination after this one.

    The last knob that has a value left goes on by one, those before it stay, and those after it
    begin anew, which may be other knobs than before.

    Raises:
        Exhausted: it is the last one.
    """
    kept = dict(before)
    while kept:
        key, value = kept.popitem()
        values = params[key].corners()
        if value != values[-1]:
            kept[key] = values[values.index(value) + 1]
            return _first(params, kept)
    raise Exhausted


def _first(params: Mapping[str, Param], kept: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The first combination with these values."""
    chosen: dict[str, Scalar] = {}
    for key, param in params.items():
        if param.applies(chosen):
            chosen[key] = kept.get(key, param.corners()[0])
    return chosen
