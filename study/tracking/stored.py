"""Runs in an MLflow store, written so that nothing stands there twice and nothing is only believed.

An answer may be lost, late or empty (MLflow takes an empty one for success). So what a run holds is
what the store says of it after a write, and what it holds already is not sent again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

_METRICS, _PARAMS, _TAGS = 900, 100, 100  # a call; MLflow takes 1000 things at once
_PAGE = 1000
_RUNNING, ENDED = "RUNNING", ("FINISHED", "FAILED")
_Batch = tuple[Sequence[Metric], Sequence[Param], Sequence[RunTag]]


class NotTaken(MlflowException):
    """The store answered, but does not hold what it was sent: no MLflow server, or a sick one."""


@dataclass
class StoredRun:
    """What the store says of a run, and what it was sent since.

    ``start`` is in milliseconds since 1970; ``latest`` is step and value of each metric's last
    point, by the metric's name.
    """

    run_id: str
    start: int
    status: str
    tags: dict[str, str]
    params: frozenset[str]
    latest: dict[str, tuple[int, float]]
    _sent: list[_Batch] = field(default_factory=list)
    _wanted: str | None = None  # the status that was asked for

    @classmethod
    def of(cls, run: Run) -> StoredRun:
        """The picture of a run as it was read."""
        points = run.data.to_proto().metrics if run.data else ()
        return cls(
            run.info.run_id,
            run.info.start_time or 0,
            run.info.status,
            dict(run.data.tags),
            frozenset(run.data.params),
            {point.key: (point.step, point.value) for point in points},
        )

    @property
    def ended(self) -> bool:
        """Whether all was logged: a run is closed so as the last thing."""
        return self.status in ENDED

    def lacks(self, metric: Metric) -> bool:
        """Whether a point is not there. Those of a metric are written in the order of steps."""
        step, value = self.latest.get(metric.key, (-1, math.nan))
        same = math.isclose(value, metric.value, rel_tol=1e-12)
        return bool(metric.step > step or (metric.step == step and not same))


class Store:
    """The runs of one experiment. Every call may raise MLflow's errors and can be repeated."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        """Find the experiment, or make it."""
        self._client = client
        self._experiment = self._find(experiment)

    def _find(self, name: str) -> str:
        for _ in range(2):
            if (found := self._client.get_experiment_by_name(name)) is not None:
                if not found.experiment_id:
                    raise NotTaken(f"it says nothing of the experiment '{name}'")
                return str(found.experiment_id)
            try:
                self._client.create_experiment(name)
            except MlflowException:
                continue  # another study made it in between, else the search above tells
        raise MlflowException(f"the experiment '{name}' can neither be found nor made")

    def search(self, condition: str) -> Iterator[Run]:
        """Runs that nobody deleted, the oldest first."""
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                condition,
                ViewType.ACTIVE_ONLY,
                _PAGE,
                ["start_time ASC"],
                token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def create(self, name: str, tags: Mapping[str, str], at: int | None = None) -> StoredRun:
        """A new run, begun ``at`` so many milliseconds since 1970."""
        run = self._client.create_run(self._experiment, at, dict(tags), name)
        if not run.info.run_id:
            raise NotTaken("it says nothing of the run that it was to make")
        return StoredRun(
            run.info.run_id, run.info.start_time, _RUNNING, dict(tags), frozenset(), {}
        )

    def delete(self, run_id: str) -> None:
        """Hide a run for good."""
        self._client.delete_run(run_id)

    def write(
        self,
        run: StoredRun,
        metrics: Iterable[Metric] = (),
        params: Iterable[Param] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send what the run lacks of these. :meth:`settle` tells whether it was taken."""
        points = [metric for metric in metrics if run.lacks(metric)]
        texts = [param for param in params if param.key not in run.params]
        words = [RunTag(k, v) for k, v in (tags or {}).items() if run.tags.get(k, "") != v]
        for number, batch in enumerate(_batches(points, texts, words)):
            if number:  # a later point would hide that an earlier one is missing
                self.settle(run)
            self._client.log_batch(run.run_id, *batch)
            run._sent.append(batch)

    def text(self, run: StoredRun, text: str, name: str) -> None:
        """A file of the run."""
        self._client.log_text(run.run_id, text, name)
        self._look(run, name, len(text.encode()))

    def file(self, run: StoredRun, path: str, folder: str | None = None) -> None:
        """A copy of a file of this machine."""
        self._client.log_artifact(run.run_id, path, folder)
        name = os.path.basename(path)
        self._look(run, f"{folder}/{name}" if folder else name, os.path.getsize(path))

    def _look(self, run: StoredRun, name: str, size: int) -> None:
        found = self._client.list_artifacts(run.run_id, os.path.dirname(name) or None)
        if (name, size) not in [(file.path, file.file_size) for file in found]:
            raise NotTaken(f"it took the file {name}, but does not show it")

    def reopen(self, run: StoredRun) -> None:
        """It goes on."""
        if run.status != _RUNNING:
            self._client.update_run(run.run_id, _RUNNING)
            run._wanted = _RUNNING

    def end(self, run: StoredRun, status: str, at: int) -> None:
        """Close the run, when all else is there; ``at`` in milliseconds since 1970."""
        self.settle(run)
        if run.status != status:
            self._client.set_terminated(run.run_id, status, at)
            run._wanted = status

    def settle(self, run: StoredRun) -> None:
        """Read the run anew.

        Raises:
            NotTaken: something that was sent is not there.
        """
        if not run._sent and run._wanted is None:
            return
        now = StoredRun.of(self._client.get_run(run.run_id))
        if now.run_id != run.run_id:
            raise NotTaken("it says nothing of a run that it took points for")
        there = all(
            not any(now.lacks(metric) for metric in _last(metrics))
            and all(param.key in now.params for param in params)
            and all(now.tags.get(tag.key, "") == tag.value for tag in tags)
            for metrics, params, tags in run._sent
        )
        if not there or run._wanted not in (None, now.status):
            raise NotTaken("it took a write, but does not show it")
        run.status, run.tags, run.params, run.latest = (
            now.status, now.tags, now.params, now.latest
        )  # fmt: skip
        run._sent, run._wanted = [], None


def _batches(
    metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
) -> Iterator[_Batch]:
    """In calls of a size that MLflow takes; in one if all fit."""
    if len(metrics) + len(params) + len(tags) <= _METRICS and max(len(params), len(tags)) <= _TAGS:
        if metrics or params or tags:
            yield metrics, params, tags
        return
    for first in range(0, len(params), _PARAMS):
        yield (), params[first : first + _PARAMS], ()
    for first in range(0, len(metrics), _METRICS):
        yield metrics[first : first + _METRICS], (), ()
    for first in range(0, len(tags), _TAGS):
        yield (), (), tags[first : first + _TAGS]


def _last(metrics: Iterable[Metric]) -> Iterable[Metric]:
    """Of each metric the last point."""
    return {metric.key: metric for metric in metrics}.values()
