"""Allocations near the solver's, to be measured end to end: the sum of the parts is no whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from study.layerwise.fitting import FileBytes, Solve, Table, fitting
from study.layerwise.settings import Setting, State
from study.layerwise.starts import uniform

TIGHTER = (0.98, 0.95)  # of the bytes: other points on the way from large to small
MOST_MOVES = 1_000  # changes of one group that are paired


def nearby(
    table: Table, solve: Solve, file_bytes: FileBytes, max_bytes: int, count: int
) -> list[State]:
    """At most ``count`` allocations that fit, each once; the solver's first.

    Then the solver's among the settings of one kind (adapter and start), and for budgets a little
    tighter, the best uniform one, and the first with two groups changed, one up and one down, by
    growing cost. None where nothing fits.
    """
    first = fitting(table, solve, file_bytes, max_bytes)
    if first is None:
        return []
    found = [first]
    for state in islice(_others(table, solve, file_bytes, max_bytes, first), 50 * count):
        if len(found) >= count:
            break
        if state not in found and file_bytes(state) <= max_bytes:
            found.append(state)
    return found


def _others(
    table: Table, solve: Solve, file_bytes: FileBytes, max_bytes: int, first: State
) -> Iterator[State]:
    for kind in _kinds(table):
        few = {g: [s for s in own if s.kind == kind] or own for g, own in table.items()}
        if state := fitting(few, solve, file_bytes, max_bytes):
            yield state
    alike = [state for state in uniform(table) if file_bytes(state) <= max_bytes]
    if alike:
        yield min(alike, key=cost)
    for share in TIGHTER:
        if state := fitting(table, solve, file_bytes, round(share * max_bytes)):
            yield state
    yield from _swaps(table, first, max_bytes - file_bytes(first))


def _kinds(table: Table) -> list[tuple[object, object]]:
    found = dict.fromkeys(s.kind for several in table.values() for s in several)
    return list(found) if len(found) > 1 else []


def _swaps(table: Table, state: State, left: int) -> Iterator[State]:
    """One group or two changed within the bytes that are left, by growing cost."""
    moves = sorted(_moves(table, state), key=lambda move: move[:2])[:MOST_MOVES]
    costs = np.array([0.0, *(move[0] for move in moves)])
    sizes = np.array([0, *(move[1] for move in moves)])
    pairs = np.argwhere(np.triu(sizes[:, None] + sizes <= left, 1))
    order = np.argsort(costs[pairs].sum(1), kind="stable")
    for a, b in pairs[order]:
        changed = {moves[i - 1][2]: moves[i - 1][3] for i in (a, b) if i}
        if len(changed) == (a > 0) + 1:
            yield {**state, **changed}


def _moves(table: Table, state: State) -> Sequence[tuple[float, int, str, Setting]]:
    return [
        (other.loss - now.loss, other.bytes - now.bytes, group, other)
        for group, now in state.items()
        for other in table[group]
        if other != now
    ]


def cost(state: State) -> float:
    """The sum over the groups."""
    return sum(setting.loss for setting in state.values())
