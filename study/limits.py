"""When a search has had enough: of trials, of time, of money. Pure: no clock, no files."""

from __future__ import annotations

from dataclasses import dataclass

from study.state import StudyState


@dataclass(frozen=True)
class Limits:
    """What a study may spend. None is no limit.

    ``share`` of time and money is kept for the confirmations that follow the search.
    """

    time: float | None = None
    share: float = 0.0

    def over(self, state: StudyState, seconds: float, searching: bool) -> str | None:
        """Why there is to be no further trial, of the search or at all; None if there may be.

        Args:
            state: Of the study.
            seconds: Worked on it so far, earlier processes included.
            searching: Whether a trial of the search is asked for; else a confirmation.
        """
        part = 1.0 - self.share if searching else 1.0
        if self.time is not None and seconds >= part * self.time:
            return "the time budget is spent"
        return None
