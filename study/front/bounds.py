"""What is asked of a point on a finished front: sizes, scores, latency, as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from analysis import units
from compression.registry import InvalidSetting
from study.fields.amounts import parse_bytes, parse_fraction, parse_percent
from study.finished import Finished
from trainables.record import Direction, Objective

SLACK = 1e-9


class Bounded(Protocol):
    """What bounds are asked of: see :class:`study.best.Point`."""

    @property
    def file_bytes(self) -> int: ...  # noqa: D102
    @property
    def value(self) -> float: ...  # noqa: D102
    @property
    def loss(self) -> float: ...  # noqa: D102
    @property
    def drop(self) -> float | None: ...  # noqa: D102
    @property
    def verified_latency_ms(self) -> float | None: ...  # noqa: D102


@dataclass(frozen=True)
class Bound:
    """What ``of`` a point is to be at most, so that more is worse; ``shown`` says it to people.

    ``of_quality`` tells scores from costs.
    """

    name: str
    most: float
    of: Callable[[Bounded], float | None]
    shown: Callable[[float], str]
    of_quality: bool = False

    def holds(self, point: Bounded) -> bool:
        """Whether the point keeps it; what was not measured keeps nothing."""
        value = self.of(point)
        # Differences of counts / n: the slack keeps what is exactly the bound within it.
        return value is not None and value <= self.most + SLACK * abs(self.most)

    def excess(self, point: Bounded) -> float:
        """By what share of the bound the point is beyond it; infinite for what is not measured."""
        value = self.of(point)
        if value is None:
            return float("inf")
        return max(0.0, value - self.most) / (abs(self.most) or 1.0)

    def broken(self, point: Bounded) -> str:
        """By how much, for people."""
        value = self.of(point)
        if value is None:
            return f"{self.name} was not measured"
        return f"{self.name} is {self.shown(value)}, asked: {self.shown(self.most)}"


def nearest(points: Sequence[Bounded], asked: Sequence[Bound]) -> str:
    """What comes nearest to bounds that nothing keeps, and by how much it fails."""
    unmeasured = [b for b in asked if all(b.of(point) is None for point in points)]
    if unmeasured:
        return f"{' and '.join(b.name for b in unmeasured)}: not measured in this study"
    point = min(points, key=lambda p: sum(bound.excess(p) for bound in asked))
    broken = "; ".join(bound.broken(point) for bound in asked if not bound.holds(point))
    return f"nothing on the front is so; the nearest ({point.file_bytes} bytes): {broken}"


def bounds(study: Finished, amounts: Mapping[str, str | None]) -> list[Bound]:
    """The bounds that the options ask for.

    Raises:
        InvalidSetting: malformed amounts, or a metric that the study has not; all at once.
    """
    found, errors = list[Bound](), list[str]()
    for name, text in amounts.items():
        if text is None:
            continue
        try:
            found.append(_MAKERS[name](study.objective, text))
        except ValueError as error:
            errors.append(f"--{name.replace('_', '-')}: {error}")
    if errors:
        raise InvalidSetting(errors)
    return found


def _bytes(y: Objective, text: str) -> Bound:
    return Bound("size", parse_bytes(text), lambda p: p.file_bytes, lambda n: f"{n:.0f} bytes")


def _latency(y: Objective, text: str) -> Bound:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|us|s)", text)
    if not found or not float(found[1]):
        raise ValueError(f"expected a time such as 3ms, got {text!r}")
    most = float(found[1]) * {"s": 1e3, "ms": 1.0, "us": 1e-3}[found[2]]
    return Bound("latency", most, lambda p: p.verified_latency_ms, lambda ms: f"{ms:.4g} ms")


def _drop(y: Objective, text: str) -> Bound:
    most = parse_fraction(text) if y.is_fraction else parse_percent(text)

    def shown(drop: float) -> str:
        return units.difference(y, drop) if y.is_fraction else f"{100 * drop:.3g}%"

    return Bound("drop on validation", most, lambda p: p.drop, shown, of_quality=True)


def _metric(y: Objective, text: str) -> Bound:
    value = parse_percent(text) if y.is_fraction else _number(text)
    name = f"{units.name(y)} on validation"

    def shown(loss: float) -> str:
        return units.value(y, y.value(loss))

    return Bound(name, y.loss(value), lambda p: p.loss, shown, of_quality=True)


def _accuracy(y: Objective, text: str) -> Bound:
    if y.name != "accuracy":
        raise ValueError(f"this study's metric is {y.name}; use --{_side(y)}-metric")
    return _metric(y, text)


def _least(y: Objective, text: str) -> Bound:
    return _of_side(y, text, "min")


def _most(y: Objective, text: str) -> Bound:
    return _of_side(y, text, "max")


def _of_side(y: Objective, text: str, side: str) -> Bound:
    if side != _side(y):
        better = "more" if y.direction is Direction.MAXIMIZE else "less"
        raise ValueError(f"of {y.name} {better} is better; use --{_side(y)}-metric")
    return _metric(y, text)


def _side(y: Objective) -> str:
    return "min" if y.direction is Direction.MAXIMIZE else "max"


def _number(text: str) -> float:
    if not re.fullmatch(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", text):
        raise ValueError(f"expected a number, got {text!r}")
    return float(text)


_MAKERS: Mapping[str, Callable[[Objective, str], Bound]] = {
    "max_bytes": _bytes,
    "min_accuracy": _accuracy,
    "min_metric": _least,
    "max_metric": _most,
    "max_drop": _drop,
    "max_latency": _latency,
}
