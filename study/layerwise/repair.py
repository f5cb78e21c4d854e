"""Bringing suggestions within a budget of bytes, and spending what is left of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compression.registry import InvalidSetting, Scalar
from study.layerwise.settings import Flat, Setting, Settings, State

SLACK = 2_000  # bytes that a header may shrink by when settings change


class Repair:
    """Makes of any suggestion one whose predicted file has at most ``max_bytes``.

    Above the budget it takes, one after the other, the changes of least predicted loss per byte
    saved; with ``fill`` then those of most predicted gain per byte spent, while they fit. A change
    sets one group to another setting with the same adapter and start: whether a group is trained is
    for the search to find out. Only where that is not enough, these change as well. Deterministic,
    and what was repaired stays as it is.

    Raises:
        InvalidSetting: not every suggestion can be brought within the budget.
    """

    def __init__(self, settings: Settings, max_bytes: int, fill: bool = False) -> None:
        self.settings, self.max_bytes, self.fill = settings, max_bytes, fill
        self._least = least_state(settings)
        if problem := shortfall(settings, max_bytes):
            raise InvalidSetting([f"space: {problem}"])

    def fits(self, params: Flat) -> bool:
        """Whether the suggestion is within the budget as it is."""
        return self.settings.file_bytes(params) <= self.max_bytes

    def __call__(self, params: Mapping[str, Scalar]) -> Flat:
        """The suggestion, repaired."""
        state = self._shrunk(self.settings.state(params), params)
        if self.fill:
            state = filled(self.settings, state, params, self.max_bytes)
        return self.settings.flat(state, params)

    def _shrunk(self, state: State, params: Mapping[str, Scalar]) -> State:
        for same_kind in (True, False):
            while self._bytes(state, params) > self.max_bytes:
                moves = [m for m in changes(self.settings, state, same_kind) if m[1] < 0]
                if not moves:
                    break
                best = min(moves, key=lambda m: (m[0] / -m[1], m[1]))
                state = {**state, best[2]: best[3]}
        return state if self._bytes(state, params) <= self.max_bytes else self._least

    def _bytes(self, state: State, params: Mapping[str, Scalar]) -> int:
        return self.settings.file_bytes(self.settings.flat(state, params))


def changes(
    settings: Settings, state: State, same_kind: bool
) -> Iterator[tuple[float, int, str, Setting]]:
    """Each change of one group: by how much loss and bytes grow, the group, its new setting."""
    for group, now in state.items():
        for other in settings.of[group]:
            if other != now and (other.kind == now.kind or not same_kind):
                yield other.loss - now.loss, other.bytes - now.bytes, group, other


def filled(settings: Settings, state: State, params: Mapping[str, Scalar], max_bytes: int) -> State:
    """The state with all upgrades that fit, those of most predicted gain per byte first."""
    while True:
        left = max_bytes - settings.file_bytes(settings.flat(state, params))
        upgrades = [
            move
            for move in changes(settings, state, same_kind=True)
            if move[0] < 0 < move[1] <= left + SLACK
        ]
        upgrades.sort(key=lambda m: (m[0] / m[1], m[1]))
        for _, _, group, setting in upgrades:
            better = {**state, group: setting}
            if settings.file_bytes(settings.flat(better, params)) <= max_bytes:
                state = better
                break
        else:
            return state


def least_state(settings: Settings) -> State:
    """The setting of fewest bytes for each group."""
    return {
        group: min(several, key=lambda s: (s.bytes, s.loss))
        for group, several in settings.of.items()
    }


def shortfall(settings: Settings, max_bytes: int) -> str | None:
    """Why not every suggestion can be brought within a budget, with what takes the bytes."""
    if (reached := least_bytes(settings)) <= max_bytes:
        return None
    targets = sum(setting.bytes for setting in least_state(settings).values())
    return (
        f"{max_bytes:,} bytes are below {reached:,}, the least that this space reaches: "
        f"{targets:,} of the target layers' weights and adapters, {reached - targets:,} of all "
        "other tensors and the header"
    )


def least_bytes(settings: Settings) -> int:
    """The file of :func:`least_state`, whatever is done to the rest of the model."""
    rest = {k: p for k, p in settings.space.params.items() if k == "rest" or k.startswith("rest.")}
    beside = [{"rest": value} for value in rest["rest"].corners()]
    state = least_state(settings)
    return max(settings.file_bytes(settings.flat(state, values)) for values in beside)
