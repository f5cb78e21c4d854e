"""A study's result as the command prints it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis import units
from analysis.front_text import front_text as table_of_front
from analysis.masking import masked
from analysis.stats import MARGIN
from analysis.telling import wrapped
from study.events import SEARCH
from study.result import StudyResult
from study.tracking import ui_command

FIRST_SIGNAL = 128  # an exit code above it: the study was interrupted


def as_text(result: StudyResult) -> str:
    """The front, where everything is, and last what to do next."""
    lines = [_table(result)] if result.front else []
    lines += [f"{kind}: {path}" for kind, path in result.report.items()]
    lines += [*map(wrapped, result.remarks), f"study: {result.location}"]
    if result.headline:
        lines += ["", wrapped(result.headline)]
    return "\n".join([*lines, "", *next_steps(result)])


def next_steps(result: StudyResult) -> Iterator[str]:
    """What a person may do now, a line each."""
    steps: dict[str, str | None] = {}
    if result.exit_code > FIRST_SIGNAL:
        steps["go on"] = f"python -m study.run --resume --name {result.name}"
    steps["read the report"] = _address(result.report.get("html"))
    command = ui_command(result.tracking_uri)
    if result.runs_page.startswith(command):  # a server, which runs
        steps["see every run"] = result.runs_page
    else:
        steps |= {"see every run": command, "and open": result.runs_page}
    steps["smallest certified"] = result.ships
    best = f"python -m study.best {result.location}"
    if result.ships:
        steps["copy it"] = f"{best} --certified --export shipped"
    elif result.front:
        margin = units.margin_of(result.objective, MARGIN, short=True).replace(" ", "")
        steps["choose a model"] = f"{best} --max-drop {margin}"
    width = max(map(len, steps))
    return (f"{what:{width}}  {how}" for what, how in steps.items() if how)


def _address(path: str | None) -> str | None:
    """As a browser opens it, and many terminals on a click."""
    local = path is not None and os.path.isabs(path) and os.path.exists(path)
    return Path(path).as_uri() if path and local else path


def as_data(result: StudyResult) -> dict[str, Any]:
    """The same as plain data."""
    front = result.front_frame.to_json(orient="records") if result.front else "[]"
    return {
        "name": result.name,
        "location": result.location,
        "exit_code": result.exit_code,
        "metric": result.objective.name,
        "direction": result.objective.direction.value,
        "trials": sum(role == SEARCH for role in result.roles),
        "front": json.loads(front),
        "headline": result.headline,
        "smallest_certified": result.ships,
        "report": dict(result.report),
        "tracking_uri": masked(result.tracking_uri),
        "runs_page": result.runs_page,
        "remarks": list(result.remarks),
    }


def front_text(result: StudyResult) -> str:
    """The front as a table, and what is to be said of the study."""
    remarks = [*map(wrapped, result.remarks), *([wrapped(result.headline)] * bool(result.headline))]
    return "\n".join([*([_table(result)] if result.front else []), *remarks])


def _table(result: StudyResult) -> str:
    rows = result.front_frame.to_dict("records")
    return table_of_front(rows, result.objective)
