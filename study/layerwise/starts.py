"""Suggestions to begin with: the best choices for budgets of bytes, by measured sensitivity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from study.layerwise.repair import filled, least_bytes
from study.layerwise.settings import Flat, Setting, Settings, State, predicted

STEPS = 50  # of the search for a price of a byte

Kind = tuple[object, object]


def starts(settings: Settings, count: int, max_bytes: int | None = None) -> list[Flat]:
    """At most ``count`` suggestions, each the best by prediction for a budget of bytes.

    Without ``max_bytes`` the budgets are a geometric ladder from the most that lowers the predicted
    loss to the least there is. With it all are at that budget, first whatever is best, then the
    best under each adapter and start; then further down the ladder.
    """
    found: list[Flat] = []
    for budget, kind in _wanted(settings, count, max_bytes) if count else ():
        if (state := best(settings, budget, kind)) is None:
            continue
        flat = settings.flat(state, {})
        if flat not in found:
            found.append(flat)
        if len(found) == count:
            break
    return found


def _wanted(
    settings: Settings, count: int, max_bytes: int | None
) -> Iterator[tuple[int, Kind | None]]:
    low = least_bytes(settings)
    if max_bytes is None:
        free = {g: min(s, key=lambda x: (x.loss, x.bytes)) for g, s in settings.of.items()}
        high = settings.file_bytes(settings.flat(free, {}))
    else:
        high = max_bytes
        kinds = dict.fromkeys(s.kind for several in settings.of.values() for s in several)
        yield from ((high, kind) for kind in (None, *kinds))
    for step in range(count):
        yield round(high * (low / high) ** (step / max(count - 1, 1))), None


def best(settings: Settings, max_bytes: int, kind: Kind | None = None) -> State | None:
    """The least predicted loss within a budget, as far as a Lagrangian and a greedy step find it.

    Each group takes the setting of least ``loss + price x bytes``, at the lowest price at which the
    file fits; what is left is filled. Never worse than the best of the uniform settings: one and
    the same for all groups that can have it. None where nothing fits.

    Args:
        settings: of the groups.
        max_bytes: of the file.
        kind: adapter and start that groups keep to where they can.
    """
    allowed = {
        group: [s for s in several if kind is None or s.kind == kind] or several
        for group, several in settings.of.items()
    }

    def bytes_of(state: State) -> int:
        return settings.file_bytes(settings.flat(state, {}))

    def at(price: float) -> State:
        return {
            g: min(several, key=lambda s: (s.loss + price * s.bytes, s.bytes))
            for g, several in allowed.items()
        }

    candidates = [at(price) for price in _prices(allowed)]
    candidates += list(_uniform(allowed))
    fitting = [state for state in candidates if bytes_of(state) <= max_bytes]
    if not fitting:
        return None
    full = [filled(settings, state, {}, max_bytes) for state in _fewest(fitting)]
    return min(full, key=lambda state: (predicted(state), bytes_of(state)))


def _prices(allowed: dict[str, list[Setting]]) -> list[float]:
    """Prices of a byte, from nothing to where only bytes count."""
    losses = [s.loss for several in allowed.values() for s in several]
    spread = max(losses) - min(losses) or 1.0
    most = max(s.bytes for several in allowed.values() for s in several) or 1
    low, high = math.log(spread / most * 1e-4), math.log(spread * 1e2)
    return [0.0, *(math.exp(low + (high - low) * i / STEPS) for i in range(STEPS + 1))]


def _uniform(allowed: dict[str, list[Setting]]) -> Iterator[State]:
    """All groups at one setting, where each can have it."""
    tables = {g: {s.values: s for s in several} for g, several in allowed.items()}
    common = set.intersection(*(set(table) for table in tables.values()))
    first = next(iter(tables.values()))
    yield from ({g: t[values] for g, t in tables.items()} for values in first if values in common)


def _fewest(states: Sequence[State]) -> list[State]:
    """The few of least predicted loss: the others would be filled in vain."""
    return sorted(states, key=predicted)[:3]
