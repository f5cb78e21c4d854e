"""The solver's choice for all groups, brought to bytes of the file that it is stored in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import starmap
from typing import NamedTuple

from compression.allocation.solution import Problem, Solution
from study.layerwise.settings import Setting, State

Table = Mapping[str, Sequence[Setting]]
"""By group what it may be set to; the loss of a setting is what it costs."""
Solve = Callable[[Problem], Solution | None]
FileBytes = Callable[[State], int]
ROUNDS = 16


class Fitted(NamedTuple):
    """A choice for every group, and by how much its cost may be above the least there is."""

    state: State
    gap: float


def fitting(table: Table, solve: Solve, file_bytes: FileBytes, max_bytes: int) -> Fitted | None:
    """The solver's choice whose file has at most ``max_bytes``; None where there is none.

    A file is the settings' bytes, which add up, and all else: the tensors of no group, and a header
    that depends on the choice a little. The problem is solved with what the last solution's file
    leaves beside all else, until that stays as it is; of what fits the best is taken. The least
    file there is fits if anything does.
    """
    costs = [[setting.loss for setting in several] for several in table.values()]
    sizes = [[setting.bytes for setting in several] for several in table.values()]
    least = {g: min(several, key=lambda s: (s.bytes, s.loss)) for g, several in table.items()}
    if (smallest := file_bytes(least)) > max_bytes:
        return None
    found, best = least, solve(Problem.of(costs, sizes, sum(map(min, sizes))))
    budget, tried = max_bytes - smallest + sum(s.bytes for s in least.values()), set[int]()
    while budget not in tried and len(tried) < ROUNDS:
        tried.add(budget)
        if (solution := solve(Problem.of(costs, sizes, budget))) is None:
            break
        state = _state(table, solution.choices)
        over = file_bytes(state) - max_bytes
        if over <= 0 and (best is None or solution.value < best.value):
            found, best = state, solution
        budget = solution.size - over  # what may be spent where all else is as in this file
        if budget in tried and over > 0:
            budget = min(tried) - over
    return Fitted(found, best.gap if best else 0.0)


def _state(table: Table, choices: Sequence[int]) -> dict[str, Setting]:
    def of(group: str, index: int) -> tuple[str, Setting]:
        return group, table[group][index]

    return dict(starmap(of, zip(table, choices, strict=True)))
