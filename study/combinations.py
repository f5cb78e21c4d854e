"""How many combinations a space has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compression.registry import FloatRange, IntRange, Scalar
from study.options import Param


def ranges(params: Mapping[str, Param]) -> dict[str, IntRange | FloatRange]:
    """The knobs that may be anything between two values."""
    return {
        key: param.domain
        for key, param in params.items()
        if isinstance(param.domain, IntRange | FloatRange) and len(param.corners()) > 1
    }


def combinations(params: Mapping[str, Param]) -> int | None:
    """Combinations of all values, conditions respected; None where a knob has a range."""
    return None if ranges(params) else _count(list(params.items()), {})


def _count(params: Sequence[tuple[str, Param]], chosen: dict[str, Scalar]) -> int:
    if not params:
        return 1
    (key, param), *rest = params
    if not param.applies(chosen):
        return _count(rest, chosen)
    values = param.corners()
    if any(key in later.when for _, later in rest):
        return sum(_count(rest, {**chosen, key: value}) for value in values)
    return len(values) * _count(rest, chosen)  # nothing depends on it
