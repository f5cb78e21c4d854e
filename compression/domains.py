"""What a setting may be: sets, ranges and texts that say what is wrong with a value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

Scalar = bool | int | float | str
ANYTHING = r"\S(.*\S)?"  # for Text: not empty, no blanks around it


@dataclass(frozen=True)
class Values:
    """A finite set of values, all of one type."""

    values: tuple[Scalar, ...]

    def problem(self, value: object) -> str | None:
        """Say what is wrong with ``value``, or None."""
        if any(type(value) is type(v) and value == v for v in self.values):
            return None
        return f"expected one of {', '.join(map(str, self.values))}, got {value!r}"


@dataclass(frozen=True)
class IntRange:
    """The integers from ``low`` to ``high``, both included."""

    low: int
    high: int
    log: bool = False

    def problem(self, value: object) -> str | None:
        """Say what is wrong with ``value``, or None."""
        if type(value) is int and self.low <= value <= self.high:
            return None
        return f"expected an integer from {self.low} to {self.high}, got {value!r}"


@dataclass(frozen=True)
class FloatRange:
    """The finite floats from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool = False

    def problem(self, value: object) -> str | None:
        """Say what is wrong with ``value``, or None."""
        number = type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
        if number and self.low <= value <= self.high:  # type: ignore[operator]
            return None
        return f"expected a number from {self.low} to {self.high}, got {value!r}"


@dataclass(frozen=True)
class FloatAbove(FloatRange):
    """The finite floats above ``low`` up to ``high``; a study that searches them may try both."""

    def problem(self, value: object) -> str | None:
        """Say what is wrong with ``value``, or None."""
        if super().problem(value) is None and value != self.low:
            return None
        return f"expected a number above {self.low:g}, up to {self.high:g}, got {value!r}"


@dataclass(frozen=True)
class Text:
    """The strings that match ``pattern`` as a whole; ``what`` says so to people.

    A study tries listed strings only: what is valid here is nothing to draw from.
    """

    pattern: str
    what: str

    def problem(self, value: object) -> str | None:
        """Say what is wrong with ``value``, or None."""
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return None
        return f"expected {self.what}, got {value!r}"


Domain = Values | IntRange | FloatRange
