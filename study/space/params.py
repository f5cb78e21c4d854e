"""One parameter of a flat suggestion: its domain, when it exists, and the extremes of several."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from compression.registry import Domain, IntRange, Scalar, Values


class Suggests(Protocol):
    """The part of ``optuna.trial.Trial`` that a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...  # noqa: D102
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...  # noqa: D102
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Param:
    """One entry of the flat suggestion.

    It exists where each key of ``when`` has such a value, and none of ``unless`` has.
    """

    domain: Domain
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    unless: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    def applies(self, chosen: Mapping[str, Scalar]) -> bool:
        """Whether the parameter exists beside those chosen so far."""
        if any(key in chosen and chosen[key] in v for key, v in self.unless.items()):
            return False
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

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys that :meth:`applies` looks at."""
        return (*self.when, *self.unless)

    def seen(self, chosen: Mapping[str, Scalar]) -> Hashable:
        """What :meth:`applies` makes of those chosen: equal where it cannot tell them apart."""
        return tuple(chosen.get(key) for key in self.reads)


@dataclass(frozen=True)
class Trained(Param):
    """A parameter that exists where one of several ``adapters``, by key, is not ``none``.

    It has no other condition.
    """

    adapters: tuple[str, ...] = ()

    def applies(self, chosen: Mapping[str, Scalar]) -> bool:
        """See :class:`Param`."""
        return any(chosen.get(key, "none") != "none" for key in self.adapters)

    @property
    def reads(self) -> tuple[str, ...]:
        """See :class:`Param`."""
        return self.adapters

    def seen(self, chosen: Mapping[str, Scalar]) -> Hashable:
        """See :class:`Param`: whether there is any adapter."""
        return self.applies(chosen)


def corners_of(
    params: Sequence[tuple[str, Param]], chosen: dict[str, Scalar]
) -> Iterator[dict[str, Scalar]]:
    """All combinations of the extremes of parameters, beside what is ``chosen``."""
    if not params:
        yield chosen
        return
    (key, param), *rest = params
    if not param.applies(chosen):
        yield from corners_of(rest, chosen)
        return
    for value in param.corners():
        yield from corners_of(rest, {**chosen, key: value})


def some_corners_of(params: Sequence[tuple[str, Param]], most: int) -> Iterator[dict[str, Scalar]]:
    """At most so many of :func:`corners_of`, about as many for each value of a parameter.

    Values share what may be taken, those of the first parameters first; where it is too little for
    all of them they take turns.
    """
    turns = dict.fromkeys((key for key, _ in params), 0)

    def found(index: int, chosen: dict[str, Scalar], room: int) -> Iterator[dict[str, Scalar]]:
        while index < len(params) and not params[index][1].applies(chosen):
            index += 1
        if index == len(params):
            yield chosen
            return
        key, param = params[index]
        values = param.corners()
        count = min(len(values), room)
        for number in range(count):
            share = room // count + (number < room % count)
            value = values[(turns[key] + number) % len(values)]
            yield from found(index + 1, {**chosen, key: value}, share)
        turns[key] += count

    yield from found(0, {}, most)
