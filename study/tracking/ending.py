"""How a study ended, as MLflow says it and by the log alone."""

from __future__ import annotations

from study.state import StudyState


def ending(state: StudyState) -> str:
    """FINISHED, FAILED, or KILLED: interrupted, or without a word."""
    if not state.closed or state.opened[-1].at > state.closed[-1].at:
        return "KILLED"
    known = {"exit 0": "FINISHED", "exit 1": "FAILED", "failed": "FAILED"}
    return known.get(state.closed[-1].reason, "KILLED")
