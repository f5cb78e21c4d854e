"""One trial of a study after the events so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from study.events import Retried
from trainables.record import Record, Report, Scalar, Trial


class Phase(StrEnum):
    """Where a trial stands. The last four are those of ``trainables.record.Status``."""

    WAITING = "waiting"
    RUNNING = "running"
    ANSWERED = "answered"
    INHERITED = "inherited"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"


OPEN = (Phase.WAITING, Phase.RUNNING)
ENDED = (Phase.COMPLETED, Phase.STOPPED, Phase.FAILED, Phase.OUT_OF_MEMORY)


@dataclass
class TrialState:
    """One suggestion and what became of it.

    ``reports`` are of ascending epochs: a trial that goes on from a checkpoint, or begins again,
    reports some of them anew, in place of those and of what came after. ``setbacks`` are why it was
    put back since it last got further than ever before. An answered trial has the record it was
    answered with. ``alone`` is one that ran out of memory before. ``source`` is the study from
    which its record was taken over.
    """

    number: int
    role: str
    params: Mapping[str, Scalar]
    trial: Trial
    trial_id: str
    phase: Phase = Phase.WAITING
    starts: int = 0
    alone: bool = False
    reports: list[Report] = field(default_factory=list)
    furthest: int = -1  # epoch that it ever reported
    setbacks: list[Retried] = field(default_factory=list)
    record: Record | None = None
    started_at: float | None = None
    ended_at: float | None = None
    source: str | None = None

    @property
    def reported(self) -> int:
        """The last epoch that it reported; -1 before any."""
        return self.reports[-1].epochs_done if self.reports else -1

    def rewind(self, epoch: int) -> None:
        """Drop the reports from an epoch on."""
        while self.reported >= epoch:
            self.reports.pop()

    def take(self, report: Report) -> None:
        """One more report; news, if it is of an epoch that was never reported."""
        self.reports.append(report)
        if report.epochs_done > self.furthest:
            self.furthest = report.epochs_done
            self.setbacks.clear()
