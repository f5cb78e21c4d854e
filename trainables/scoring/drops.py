"""How much worse models are than each other in a task's primary metric, on the same examples."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.record import Bounds, Direction, Drop
from trainables.scoring.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    Spread,
    difference,
    growth,
    sizes,
    spread,
)
from trainables.tasks.base import Task

UNSEEN = 3
METHOD = f"paired bootstrap{{}}, BCa, {RESAMPLES} resamples, one-sided {CONFIDENCE:.0%} bounds"


class Drops:
    """Compares models that were scored on the examples with these labels, by name.

    ``groups``, (n,) int64, as those of a :class:`~trainables.splits.Split`.
    """

    def __init__(self, task: Task, labels: Tensor, groups: Tensor | None = None) -> None:
        if groups is not None and groups.shape != (len(labels),):
            raise ValueError(f"expected a group for each of {len(labels)} examples")
        self.task, self.labels, self.groups = task, labels, groups
        self._spreads: dict[str, Spread] = {}
        self._observed: dict[str, Mapping[str, Tensor]] = {}
        self._unseen: dict[tuple[str, int], float] = {}

    def take(self, name: str, observed: Mapping[str, Tensor]) -> None:
        """Score a model's examples as they are and over the resamples: some thousand scorings."""
        if name not in self._spreads:
            self._spreads[name] = spread(
                lambda rows: self._score(observed, rows), len(self.labels), self.groups
            )
            self._observed[name] = observed

    def drop(self, reference: str, name: str) -> Drop | None:
        """How much worse ``name`` is than ``reference``; None where the metric is not finite.

        The bootstrap knows no error that did not happen: two models that agree on every example
        would differ by exactly 0. So the bounds are never nearer than what :data:`UNSEEN` errors
        more would do, which is the 95% bound after none in n (Hanley & Lippman-Hand 1983, "If
        nothing goes wrong, is everything all right?"). Of groups so many more would err, each in as
        many examples as groups do on average in which the models disagree at all.
        """
        theirs, ours = self._spreads[reference], self._spreads[name]
        absolute, relative = difference(theirs, ours), None
        if not self.task.objective.is_fraction:
            relative = growth(theirs, ours)
        if absolute is None:
            return None
        if self.task.objective.direction is Direction.MAXIMIZE:
            absolute, relative = _mirrored(absolute), relative and _mirrored(relative)
        alike = self.groups is not None
        method = METHOD.format(" of whole groups of examples" if alike else "")
        if unseen := self._unseen_cost(name, UNSEEN * self._at_once(reference, name)):
            method += f", no nearer than {UNSEEN} {'groups that err' if alike else 'errors'}"
            absolute = _widened(absolute, unseen)
            relative = relative and _widened(relative, unseen / abs(theirs.value))
        n = len(self.labels)
        return Drop(self.task.metric, n, absolute, relative, method, ours.groups)

    def _at_once(self, reference: str, name: str) -> int:
        """Errors that come together: 1 unless examples come in groups."""
        theirs, ours = (self._observed[model].get("prediction") for model in (reference, name))
        if self.groups is None or theirs is None or ours is None:
            return 1
        disagreements = sizes(self.groups[theirs != ours])
        return math.ceil(disagreements.double().mean().item()) if len(disagreements) else 1

    def _score(self, observed: Mapping[str, Tensor], rows: Tensor) -> float:
        some = {key: values[rows] for key, values in observed.items()}
        return self.task.score(some, self.labels[rows])[self.task.metric]

    def _unseen_cost(self, name: str, errors: int) -> float:
        """What so many errors more cost, in the class of labels where they cost most."""
        if (name, errors) not in self._unseen:
            self._unseen[name, errors] = self._worst(self._observed[name], errors)
        return self._unseen[name, errors]

    def _worst(self, observed: Mapping[str, Tensor], errors: int) -> float:
        right = self.task.correct(observed, self.labels)
        if right is None:
            return 0.0
        everyone = torch.arange(len(self.labels))
        loss, prediction = self.task.objective.loss, observed["prediction"]
        now, worst = loss(self._score(observed, everyone)), 0.0
        counts = torch.bincount(prediction, minlength=max(2, int(self.labels.max()) + 1))
        for label in sorted(set(self.labels[right].tolist())):
            others = counts.clone()
            others[label] = -1
            wrong = prediction.clone()
            wrong[(right & (self.labels == label)).nonzero()[:errors, 0]] = others.argmax()
            changed = {**observed, "prediction": wrong}
            worst = max(worst, loss(self._score(changed, everyone)) - now)
        return worst


def _mirrored(found: Bounds) -> Bounds:
    return Bounds(-found.value, -found.high, -found.low)


def _widened(found: Bounds, least: float) -> Bounds:
    value = found.value
    return Bounds(value, min(found.low, value - least), max(found.high, value + least))
