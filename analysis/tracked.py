"""Reads a study back from an MLflow store, where its folder is not at hand."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from analysis.load import Row, StudyData, StudyDataError, parse_info, parse_record
from analysis.study_info import LONGEST, is_name

__all__ = ["load_tracked"]

STUDY, TRIAL = "paretune.study", "paretune.trial"
# A store that does not answer is said within seconds, not after minutes of retries.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def load_tracked(uri: str, name: str | None = None) -> StudyData:
    """A study from the `record.json` of its runs; test scores are not in them.

    Args:
        uri: Of the MLflow store.
        name: Run name of the study; the newest where absent.

    Raises:
        StudyDataError: The store does not answer, has no such study, or a record cannot be read.
    """
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        return _load(MlflowClient(uri), uri, name)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise StudyDataError(f"{uri}: the tracking store cannot be read: {reason}") from error


def _load(client: Any, uri: str, name: str | None) -> StudyData:
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = _search(client, experiments, f"tags.`{STUDY}` != ''")
    studies = [r for r in runs if TRIAL not in r.data.tags and name in (None, r.info.run_name)]
    if not studies:
        wanted = f"study {name}" if name else "study"
        raise StudyDataError(f"{uri}: holds no {wanted}: no run with the tag {STUDY}")
    study = max(studies, key=lambda run: run.info.start_time)
    found = str(study.info.run_name)
    if not is_name(found):
        raise StudyDataError(f"{uri}: run {found[:LONGEST]!r}: its name is no part of a path")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            if TRIAL not in run.data.tags or _open(run):
                continue
            if run.data.tags[STUDY] != study.data.tags[STUDY]:
                continue
            where = f"{uri}: run {run.info.run_name}: record.json"
            path = client.download_artifacts(run.info.run_id, "record.json", folder)
            tags = run.data.tags
            record = parse_record(Path(path).read_text(encoding="utf-8"), where)
            rows.append(Row(record, tags.get("role", "search"), int(tags.get("number", 0))))
        info = _info(client, study, folder)
    rows.sort(key=lambda row: row.number)
    return StudyData(found, info, tuple(rows))


def _open(run: Any) -> bool:
    return run.info.status not in ("FINISHED", "FAILED")


def _info(client: Any, study: Any, folder: str) -> dict[str, Any]:
    names = [file.path for file in client.list_artifacts(study.info.run_id)]
    if "study.json" not in names:
        return {"name": str(study.info.run_name)}
    path = client.download_artifacts(study.info.run_id, "study.json", folder)
    return parse_info(Path(path).read_bytes(), "study.json")


def _search(client: Any, experiments: list[str], condition: str) -> list[Any]:
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs(experiments, condition, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs
