"""What the driver works with: what it goes by, where events are kept, who is shown them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from study.constraints import Demands
from study.events import Event
from study.loop.confirm import Replicate
from study.loop.limits import Limits
from study.objectives import LATENCY, Aim
from study.space.space import Space
from study.state import StudyState
from trainables.record import Origin, Outcome, Scalar, Trial


class Log(Protocol):
    """Where events are kept."""

    def append(self, event: Event) -> None:
        """Keep it for good."""


class View(Protocol):
    """What is shown of a study, besides its state."""

    def put(self, event: Event) -> None:
        """Take an event that was logged and applied."""


class Asks(Protocol):
    """Where new suggestions come from."""

    def ask(self, number: int) -> dict[str, Scalar] | None:
        """The suggestion of this number, if any is left."""

    def put(self, event: Event) -> None:
        """Take an event that was logged and applied: how a suggestion ended is one."""


@dataclass(frozen=True)
class Plan:
    """What the driver goes by.

    ``origin`` makes the origin of a record that begins now; ``memory`` in bytes is what the trials
    share; ``confirm`` says what is to be run again, with other seeds, once the search is over:
    what of it has no record yet. ``latency`` in ms of a trial's form is by the study's table.
    A trial whose worker was lost is run again so many times as ``max_retries`` says.
    """

    space: Space
    seed: int
    trials: int
    concurrency: int
    aims: Sequence[Aim]
    origin: Callable[[], Origin]
    limits: Limits = Limits()
    memory: float = float("inf")
    confirm: Callable[[StudyState], Sequence[Replicate]] | None = None
    demands: Demands = Demands()
    latency: Callable[[Trial], float | None] = lambda trial: None
    max_retries: int = 3

    def untimed(self, outcome: Outcome) -> bool:
        """Whether a trial lacks the latency that it is to be judged by: nobody can say it later."""
        names = [aim.name for aim in self.aims] + [c.name for c in self.demands.constraints]
        return not outcome.failed and LATENCY in names and outcome.latency_ms is None
