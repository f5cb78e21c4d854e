"""Latency of a study's records by its own table: they may be older than it, or of another study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from study.events import Ended, Event, Inherited
from study.state import StudyState
from trainables.record import Record, Trial


def retime(
    state: StudyState, events: Iterable[Event], latency: Callable[[Trial], float | None]
) -> list[Event]:
    """Look up again what each trial takes; the state's records and these events with that.

    What was taken over has the figure of another table: where this one has none, there is none.
    """
    foreign = {trial.trial_id for trial in state.trials.values() if trial.source}

    def revised(record: Record) -> Record:
        found = latency(record.trial)
        if found is None and (record.outcome.latency_ms is None or record.trial_id not in foreign):
            return record
        return replace(record, outcome=replace(record.outcome, latency_ms=found))

    state.revise(revised)
    return [
        replace(event, record=revised(event.record))
        if isinstance(event, Ended | Inherited)
        else event
        for event in events
    ]
