"""Runs in an MLflow store, written so that nothing stands there twice and nothing is only believed.

An answer may be lost, late or empty (MLflow takes an empty one for success). So what a run holds is
what the store says of it after a write, and what it holds already is not sent again. Many runs are
read back at once: to read one costs a store half as much as to write it.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from study.tracking.client import Client

_METRICS, _PARAMS, _TAGS = 900, 100, 100  # a call; MLflow takes 1000 things at once
_PAGE = 1000
_CLIENTS_FAULT = range(400, 500)
_PASSING = (401, 403, 404, 408, 425, 429)  # of these, what is not about the trial
_RUNNING, ENDED = "RUNNING", ("FINISHED", "FAILED")
_Batch = tuple[Sequence[Metric], Sequence[Param], Sequence[RunTag]]


class NotTaken(MlflowException):
    """The store answered, but does not hold what it was sent: no MLflow server, or a sick one."""


def refused(error: MlflowException) -> bool:
    """Whether the store works and will never take this: no other trial is to wait for it."""
    status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    return status in _CLIENTS_FAULT and status not in _PASSING


@dataclass
class StoredRun:
    """What the store says of a run, and what it was sent since.

    ``start`` is in milliseconds since 1970; ``latest`` is step and value of each metric's last
    point, by the metric's name; ``files`` is where its files are.
    """

    run_id: str
    start: int
    status: str
    tags: dict[str, str]
    params: frozenset[str]
    latest: dict[str, tuple[int, float]]
    files: str = ""
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
            run.info.artifact_uri or "",
        )

    @property
    def ended(self) -> bool:
        """Whether all was logged: a run is closed so as the last thing."""
        return self.status in ENDED

    @property
    def unsettled(self) -> bool:
        """Whether something was sent, and not yet read back."""
        return bool(self._sent) or self._wanted is not None

    @property
    def closing(self) -> bool:
        """Whether nothing is open but that it was running and is to be so no more."""
        return not self._sent and self.status == _RUNNING and self._wanted not in (None, _RUNNING)

    def lacks(self, metric: Metric) -> bool:
        """Whether a point is not there. Those of a metric are written in the order of steps."""
        step, value = self.latest.get(metric.key, (-1, math.nan))
        same = math.isclose(value, metric.value, rel_tol=1e-12)
        return bool(metric.step > step or (metric.step == step and not same))


class Store:
    """The runs of one experiment. Every call may raise MLflow's errors and can be repeated."""

    def __init__(self, client: Client, experiment: str) -> None:
        """Find the experiment, or make it."""
        self._client = client
        self._experiment = self._find(experiment)

    @property
    def experiment(self) -> str:
        """Its id."""
        return self._experiment

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
        info = run.info
        where = info.artifact_uri or ""
        return StoredRun(info.run_id, info.start_time, _RUNNING, dict(tags), frozenset(), {}, where)

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
                self.settle([run])
            self._client.log_batch(run.run_id, *batch)
            run._sent.append(batch)

    def text(self, run: StoredRun, text: str, name: str) -> None:
        """A file of the run."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            self.file(run, path)

    def file(self, run: StoredRun, path: str, folder: str = "") -> None:
        """A copy of a file of this machine."""
        name = os.path.basename(path)
        self.files(run, {f"{folder}/{name}" if folder else name: path})

    def files(self, run: StoredRun, paths: Mapping[str, str]) -> None:
        """Copies of files of this machine, by their names there; the last part is the path's own.

        Raises:
            NotTaken: one of them is not there.
        """
        for name, path in paths.items():
            self._client.put_file(run.files, path, os.path.dirname(name) or None)
        for folder in {os.path.dirname(name) for name in paths}:
            found = self._client.files_at(run.files, folder or None)
            sizes = {file.path: file.file_size for file in found}
            for name, path in paths.items():
                if os.path.dirname(name) == folder and sizes.get(name) != os.path.getsize(path):
                    raise NotTaken(f"it took the file {name}, but does not show it")

    def reopen(self, run: StoredRun) -> None:
        """It goes on."""
        if run.status != _RUNNING:
            self._client.update_run(run.run_id, _RUNNING)
            run._wanted = _RUNNING

    def end(self, run: StoredRun, status: str, at: int) -> None:
        """Close the run, when all else is there; ``at`` in milliseconds since 1970."""
        self.settle([run])
        if run.status != status:
            self._client.set_terminated(run.run_id, status, at)
            run._wanted = status

    def settle(self, runs: Iterable[StoredRun]) -> None:
        """Read runs anew that something was sent to.

        Raises:
            NotTaken: something that was sent is not there.
        """
        unsettled = [run for run in runs if run.unsettled]
        found = self._read([run.run_id for run in unsettled]) if len(unsettled) > 1 else {}
        for run in unsettled:
            now = found.get(run.run_id)
            if now is None or not _holds(now, run):  # a search may lag behind
                now = StoredRun.of(self._client.get_run(run.run_id))
            if now.run_id != run.run_id:
                raise NotTaken("it says nothing of a run that it took points for")
            if not _holds(now, run):
                raise NotTaken("it took a write, but does not show it")
            run.status, run.tags, run.params, run.latest = (
                now.status, now.tags, now.params, now.latest
            )  # fmt: skip
            run._sent, run._wanted = [], None

    def settle_closed(self, runs: Sequence[StoredRun], witness: StoredRun) -> None:
        """As :meth:`settle`, of runs that were ended; ``witness`` is one that is running.

        Which of them run still is asked in place of all that they hold. An answer that names the
        witness alone says that it is none; an empty one says nothing.
        """
        closing = [run for run in runs if run.closing]
        if len(closing) > 1:
            ids = [witness.run_id, *(run.run_id for run in closing)]
            running = self._read(ids, f" AND attributes.status = '{_RUNNING}'")
            if set(running) == {witness.run_id}:
                for run in closing:
                    run.status, run._wanted = run._wanted or run.status, None
        self.settle(runs)

    def _read(self, run_ids: Sequence[str], condition: str = "") -> dict[str, StoredRun]:
        """Those of the runs that the store shows, by id."""
        names = ", ".join(f"'{run_id}'" for run_id in run_ids)
        found = self.search(f"attributes.run_id IN ({names}){condition}")
        return {run.info.run_id: StoredRun.of(run) for run in found}


def _holds(now: StoredRun, run: StoredRun) -> bool:
    """Whether what was read of a run has all that was sent."""
    return run._wanted in (None, now.status) and all(
        not any(now.lacks(metric) for metric in _last(metrics))
        and all(param.key in now.params for param in params)
        and all(now.tags.get(tag.key, "") == tag.value for tag in tags)
        for metrics, params, tags in run._sent
    )


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
