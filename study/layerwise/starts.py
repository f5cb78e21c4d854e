"""Suggestions to begin with: the best choices for budgets of bytes, by measured sensitivity."""

from __future__ import annotations

from collections.abc import Iterator

from compression.allocation.least_sum import least_sum
from study.layerwise.fitting import Table, fitting
from study.layerwise.repair import filled, least_bytes
from study.layerwise.settings import Flat, Settings, State, predicted

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
    """The least predicted loss within a budget: exact for the settings' bytes, then filled.

    Never worse than the best of the uniform settings, one and the same for all groups that can have
    it, whose header may be shorter. None where nothing fits.

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

    found = fitting(allowed, least_sum, bytes_of, max_bytes)
    fit = [state for state in uniform(allowed) if bytes_of(state) <= max_bytes]
    candidates = [found.state, *fit] if found else fit
    if not candidates:
        return None
    return filled(settings, min(candidates, key=predicted), {}, max_bytes)


def uniform(allowed: Table) -> Iterator[State]:
    """All groups at one setting, where each can have it."""
    tables = {g: {s.values: s for s in several} for g, several in allowed.items()}
    common = set.intersection(*(set(table) for table in tables.values()))
    first = next(iter(tables.values()))
    yield from ({g: t[values] for g, t in tables.items()} for values in first if values in common)
