"""Allocations near the solver's, to be measured end to end: the sum of the parts is no whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from study.layerwise.fitting import FileBytes, Solve, Table, fitting
from study.layerwise.settings import Setting, State
from study.layerwise.starts import uniform

TIGHTER = (0.98, 0.95)  # of the bytes: other points on the way from large to small
MOST_MOVES = 1_000  # changes of one group that are paired


MOST_LOOKED_AT = 500  # allocations whose file's bytes are computed, around one


def refined(
    table: Table,
    solve: Solve,
    file_bytes: FileBytes,
    max_bytes: int,
    first: State,
    loss: Callable[[State], float],
    count: int,
) -> list[tuple[State, float]]:
    """At most ``count`` allocations that fit, each once, with their measured loss.

    ``first`` is the first. Up to half are the solver's among the settings of one kind (adapter and
    start), the best uniform one, and the solver's for budgets a little tighter. Then come, around
    whatever is the best so far, those with one group changed or two, one up and one down, by
    growing cost.
    """
    found = [(first, loss(first))]

    def measured(states: Iterator[State], most: int) -> Iterator[float]:
        for state in islice(states, MOST_LOOKED_AT):
            if len(found) >= most:
                return
            if all(state != s for s, _ in found) and file_bytes(state) <= max_bytes:
                found.append((state, loss(state)))
                yield found[-1][1]

    for _ in measured(_others(table, solve, file_bytes, max_bytes), 1 + count // 2):
        pass
    while len(found) < count:
        best, least = min(found, key=lambda pair: pair[1])
        around = _swaps(table, best, max_bytes - file_bytes(best))
        if all(value >= least for value in measured(around, count)):
            break
    return found


def _others(table: Table, solve: Solve, file_bytes: FileBytes, max_bytes: int) -> Iterator[State]:
    for kind in _kinds(table):
        few = {g: [s for s in own if s.kind == kind] or own for g, own in table.items()}
        if found := fitting(few, solve, file_bytes, max_bytes):
            yield found.state
    alike = [state for state in uniform(table) if file_bytes(state) <= max_bytes]
    if alike:
        yield min(alike, key=cost)
    for share in TIGHTER:
        if found := fitting(table, solve, file_bytes, round(share * max_bytes)):
            yield found.state


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
