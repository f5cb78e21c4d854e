"""Whether a study's trials were laid out evenly, so that averages over them compare like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from analysis.load import StudyData
from trainables.record import Status

__all__ = ["descriptive"]


def descriptive(study: StudyData) -> str | None:
    """Why what its trials show is descriptive only; None if they were laid out evenly."""
    searcher = _searcher(study)
    if searcher is None:
        return "Descriptive: the study does not say how its trials were chosen."
    even = EVEN.get(searcher)
    if even is None:
        return (
            f"Descriptive: searcher {searcher} chose the trials, more of what did well, so that "
            "they are no designed experiment."
        )
    if reason := even(study):
        return f"Descriptive: {reason}."
    if (study.info.get("warm_start") or {}).get("taken_over"):
        return "Descriptive: some trials were taken over from another study."
    statuses = [row.record.outcome.status for row in study.rows if row.role == "search"]
    stopped = sum(status is Status.STOPPED for status in statuses)
    if stopped:
        return f"Descriptive: {stopped} trials were stopped early, for what they had shown."
    return None


def _searcher(study: StudyData) -> str | None:
    stated: Any = study.info.get("config", {}).get("searcher")
    if isinstance(stated, Mapping):
        return next(iter(stated), None)
    return None if stated is None else str(stated)


def _always(study: StudyData) -> str | None:
    return None


def _independent(study: StudyData) -> str | None:
    return (
        "searcher random drew each trial by itself, so that values and their combinations are "
        "neither balanced nor quasi-random"
    )


def _all_combinations(study: StudyData) -> str | None:
    """A grid is even once it has run to its end."""
    params = study.info.get("space", {}).get("params", {})
    trials = {row.number for row in study.rows if row.role == "search"}
    # One more than there are trials is enough to know that the grid has more.
    known = sum(1 for _ in islice(_combinations(list(params.items()), {}), len(trials) + 1))
    return "the grid was not run to its end" if not params or known > len(trials) else None


def _combinations(
    params: Sequence[tuple[str, Mapping[str, Any]]], chosen: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """The settings of a space of lists; a knob exists under its ``when`` only."""
    if not params:
        yield chosen
        return
    (key, param), rest = params[0], params[1:]
    if all(chosen.get(name) in values for name, values in param.get("when", {}).items()):
        for value in param["domain"].get("values", ()):
            yield from _combinations(rest, {**chosen, key: value})
    else:
        yield from _combinations(rest, chosen)


EVEN: Mapping[str, Callable[[StudyData], str | None]] = {
    "grid": _all_combinations,
    "quasi_random": _always,
    "random": _independent,
}
"""Searchers that look at no result, each with why a study of it may be uneven all the same."""
