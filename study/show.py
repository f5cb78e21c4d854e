"""A study's result as the command prints it."""

from __future__ import annotations

import json

from analysis.masking import masked
from study.events import SEARCH
from study.result import StudyResult
from study.tracking import ui_command


def as_text(result: StudyResult) -> str:
    """The front, where the report is, how to open MLflow."""
    lines = [_table(result)] if result.front else []
    lines += [f"{kind}: {path}" for kind, path in result.report.items()]
    lines += [*result.remarks, f"study: {result.location}"]
    return "\n".join([*lines, f"MLflow: {ui_command(result.tracking_uri)}"])


def as_json(result: StudyResult) -> str:
    """The same as one line of JSON."""
    front = result.front_frame.to_json(orient="records") if result.front else "[]"
    return json.dumps(
        {
            "name": result.name,
            "location": result.location,
            "exit_code": result.exit_code,
            "metric": result.objective.name,
            "direction": result.objective.direction.value,
            "trials": sum(role == SEARCH for role in result.roles),
            "front": json.loads(front),
            "report": dict(result.report),
            "tracking_uri": masked(result.tracking_uri),
            "remarks": list(result.remarks),
        }
    )


def front_text(result: StudyResult) -> str:
    """The front as a table, and what is to be said of the study."""
    return "\n".join([*([_table(result)] if result.front else []), *result.remarks])


def _table(result: StudyResult) -> str:
    frame = result.front_frame.sort_values("ratio")
    metrics = [f"{split}_{result.objective.name}" for split in ("val", "test")]
    numbers = ["ratio", "file_bytes", *metrics, "val_mean", "probability"]
    columns = [*numbers, "method", "init", "adapter", "rank", "status"]
    if set(frame.get("recipe", ())) - {"recover", ""}:
        columns.insert(-1, "recipe")
    shown = frame[[c for c in columns if c in frame]]
    return str(shown.to_string(index=False, float_format="%.4g"))
