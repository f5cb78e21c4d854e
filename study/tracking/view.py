"""How MLflow's table of runs and its charts open: a saved view for each study.

It is what the page's own button saves: a tag of the experiment with the columns, their order, a
filter and charts. The page takes it up by the key in its address, and lists it under Views.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from study.tracking.client import Client
from study.tracking.stored import NotTaken, refused

__all__ = ["View", "Views"]

TAG, OURS = "mlflow.sharedViewState.", "paretune-"
MOST = 20  # studies; the page lists no more than 40 views
_LONGEST_NAME = 200  # the whole tag takes 5000 characters
_WIDTH = 96  # pixels of a column: seven beside the names where a page is 1280 wide
_WITHOUT = ("ENDPOINT_NOT_FOUND", "PERMISSION_DENIED")


@dataclass(frozen=True)
class View:
    """A study's runs: its front first, then the latest.

    Args:
        study_id: Of the study.
        name: What the page calls the view.
        metric: The primary metric's plain name.
        further: Names of what else the study trades, beside metric and ratio.
        at: When the study was begun, in seconds since 1970.
    """

    study_id: str
    name: str
    metric: str
    further: Sequence[str]
    at: float

    @property
    def key(self) -> str:
        """By which the page's address names it."""
        return f"{OURS}{self.study_id}"

    def as_tag(self) -> str:
        """The tag's value."""
        state = json.dumps({**self._runs(), **self._columns(), **self._charts()})
        name = self.name[:_LONGEST_NAME]
        return json.dumps({"name": name, "createdAt": int(self.at * 1000), "state": state})

    def _runs(self) -> dict[str, Any]:
        return {
            "searchFilter": f"tags.`paretune.study` = '{self.study_id}'",
            "orderByKey": "tags.`on_front`",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "runsHiddenMode": "SHOW_ALL",
        }

    def _columns(self) -> dict[str, Any]:
        trained = f"val_{self.metric}", f"test/{self.metric}"
        metrics = ["ratio", *trained, *self.further, "file_bytes", "epochs_done"]
        columns = [
            "tags.`on_front`",
            *(f"metrics.`{name}`" for name in dict.fromkeys(metrics)),
            *(f"params.`{name}`" for name in ("method", "init", "adapter", "rank")),
            "tags.`status`",
        ]
        widths = dict.fromkeys(columns, _WIDTH)
        return {"selectedColumns": columns, "columnOrder": columns, "columnWidths": widths}

    def _charts(self) -> dict[str, Any]:
        """Ours come first; the page adds one for every other metric."""
        ratio, validated = _axis("ratio"), f"val_{self.metric}"
        asked = ["method", "adapter", "rank"]
        return {
            "compareRunSections": [_section("front", "Front"), _section("epochs", "By epoch")],
            "isAccordionReordered": True,
            "compareRunCharts": [
                _chart("SCATTER", "front", 0, xaxis=ratio, yaxis=_axis(validated)),
                _chart(
                    "PARALLEL",
                    "front",
                    1,
                    selectedParams=asked,
                    selectedMetrics=["ratio", validated],
                    showAllRuns=True,
                ),
                _line(0, f"val/{self.metric}"),
                _line(1, "train/loss"),
            ],
        }


def _axis(name: str) -> dict[str, str]:
    return {"key": name, "type": "METRIC"}


def _section(uuid: str, name: str) -> dict[str, Any]:
    flags = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": uuid, "name": name, "columns": 2, **flags}


def _chart(kind: str, section: str, number: int, **more: Any) -> dict[str, Any]:
    found = {"type": kind, "uuid": f"{section}-{number}", "metricSectionId": section}
    return {**found, "deleted": False, "isGenerated": False, "runsCountToCompare": 100, **more}


def _line(number: int, metric: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        "epochs",
        number,
        metricKey=metric,
        range={},
        xAxisKey="step",
        xAxisScaleType="linear",
        scaleType="linear",
        lineSmoothness=0,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )


class Views:
    """The views of an experiment. Calls may raise MLflow's errors and can be repeated."""

    def __init__(self, client: Client, experiment: str) -> None:
        self._client, self._experiment = client, experiment

    def show(self, view: View) -> bool:
        """Save the view, unless it is there: somebody may have changed it. Whether there is one.

        Of many studies the latest keep theirs. A server that takes no such tags, or none from this
        user, is left without.

        Raises:
            NotTaken: the store does not show what it was sent.
        """
        try:
            self._save(view)
        except MlflowException as error:
            if error.error_code not in _WITHOUT and not refused(error):
                raise
            return False
        return True

    def _save(self, view: View) -> None:
        key = TAG + view.key
        if key not in self._tags():
            self._client.set_experiment_tag(self._experiment, key, view.as_tag())
        tags = self._tags()
        if key not in tags:
            raise NotTaken("it took a view of the runs, but does not show it")
        ours = [name for name in tags if name.startswith(TAG + OURS) and name != key]
        for old in sorted(ours, key=lambda name: _created(tags[name]), reverse=True)[MOST - 1 :]:
            self._client.delete_experiment_tag(self._experiment, old)

    def _tags(self) -> Mapping[str, str]:
        found = self._client.get_experiment(self._experiment)
        if found.experiment_id != self._experiment:
            raise NotTaken("it says nothing of the experiment")
        return found.tags


def _created(tag: str) -> float:
    """When a view was saved; of what is none long ago."""
    try:
        return float(json.loads(tag)["createdAt"])
    except (ValueError, TypeError, KeyError):
        return 0.0
