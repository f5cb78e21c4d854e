"""How many combinations a space has."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from compression.registry import FloatRange, IntRange, Scalar
from study.space.params import Param


def ranges(params: Mapping[str, Param]) -> dict[str, IntRange | FloatRange]:
    """The knobs that may be anything between two values."""
    return {
        key: param.domain
        for key, param in params.items()
        if isinstance(param.domain, IntRange | FloatRange) and len(param.corners()) > 1
    }


def combinations(params: Mapping[str, Param]) -> int | None:
    """Combinations of all values, conditions respected; None where a knob has a range."""
    return None if ranges(params) else _count(list(params.items()))


def _count(params: Sequence[tuple[str, Param]]) -> int:
    """Parameter by parameter: of what was chosen only that counts apart which later ones look at.

    So groups of layers, each with choices of its own, multiply instead of branching.
    """
    at = {key: index for index, (key, _) in enumerate(params)}
    first = [min((at[key] for key in param.reads if key in at), default=-1) for _, param in params]
    states: dict[Hashable, tuple[dict[str, Scalar], int]] = {(): ({}, 1)}
    for index, (key, param) in enumerate(params):
        later = [p for i, (_, p) in enumerate(params) if 0 <= first[i] <= index < i]
        found: dict[Hashable, tuple[dict[str, Scalar], int]] = {}
        for chosen, count in states.values():
            values = param.corners() if param.applies(chosen) else ()
            for now in [{**chosen, key: value} for value in values] or [chosen]:
                mark = tuple(p.seen(now) for p in later)
                found[mark] = now, found.get(mark, (now, 0))[1] + count
        states = found
    return sum(count for _, count in states.values())
