"""The checkpoints of trials under way: put away now and then, found again by the next worker.

A trial has two files, written in turn: while one is written, and should it be damaged, the other
stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from trainables.checkpoint import CheckpointError, State
from trainables.shelf import Shelf, ShelfError

GENERATIONS = 2
SHARE = 0.02
"""Of a training's time, what its checkpoints may cost."""


class Store(Shelf, Protocol):
    """A shelf that can be read."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def read_bytes(self, name: str) -> bytes:
        """The file."""


def file_names(trial_id: str) -> list[str]:
    """The files that a trial's checkpoints are in, some of which need not be there."""
    return [f"{trial_id}.{generation}.safetensors" for generation in range(GENERATIONS)]


class Checkpoints:
    """Those of one trial after the other; ``remarks`` are what went wrong with them.

    They are at least ``every`` seconds apart, and so far that they take at most :data:`SHARE` of
    the time, going by what the last one took, of whichever trial.
    """

    def __init__(self, store: Store, every: float) -> None:
        self.store, self.every = store, every
        self.remarks: list[str] = []
        self._cost = 0.0
        self.begin("")

    def begin(self, trial_id: str) -> None:
        """Another trial begins."""
        self._trial_id, self._turn = trial_id, 0
        self._wait()

    def _wait(self) -> None:
        self._due = time.monotonic() + max(self.every, self._cost / SHARE)

    def keep(self, state: Callable[[], State]) -> bool:
        """Put the trial's state away if it is time to; whether it was."""
        if time.monotonic() < self._due:
            return False
        began = time.monotonic()
        try:
            self.store.write_bytes(file_names(self._trial_id)[self._turn], state().to_bytes())
            self._turn = (self._turn + 1) % GENERATIONS
        except Exception as error:  # whatever a plugin's state is: it would only be farther to go
            self.remarks.append(f"no checkpoint: {error}")
        self._cost = time.monotonic() - began
        self._wait()
        return True

    def find(self) -> list[State]:
        """The trial's states that are whole, the last one first; it is not written over next."""
        found: list[tuple[int, int, State]] = []
        for generation, name in enumerate(file_names(self._trial_id)):
            try:
                if self.store.exists(name):
                    state = State.from_bytes(self.store.read_bytes(name))
                    found.append((_epochs(state), generation, state))
            except (ShelfError, CheckpointError) as error:
                self.remarks.append(f"checkpoint {name}: {error}")
        found.sort(key=lambda each: each[:2], reverse=True)
        if found:
            self._turn = (found[0][1] + 1) % GENERATIONS
        return [state for _, _, state in found]


def _epochs(state: State) -> int:
    tree = state.tree
    epochs = tree.get(".epochs_done") if isinstance(tree, dict) else None
    if not isinstance(epochs, int):
        raise CheckpointError("is of another version of this program")
    return epochs
