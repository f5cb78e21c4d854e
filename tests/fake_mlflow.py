"""An MLflow store in memory that fails by a schedule, to the client that the tracker uses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace

from mlflow.entities import (
    FileInfo,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelParameter,
    LoggedModelStatus,
    Metric,
    Run,
    RunData,
    RunInfo,
    RunOutputs,
    RunTag,
)
from mlflow.entities import Param as MlflowParam
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST


class Fault(Enum):
    """What becomes of a request."""

    NONE = "it is answered"
    REFUSED = "it never arrives"
    UNANSWERED = "it is done, the answer is lost"
    LATE = "it is given up, and is done after the next one"
    EMPTY = "something else answers, with nothing"
    DIES = "the tracker dies of it, the request is done"


class TrackerDied(BaseException):
    """kill -9, as far as one process can show it."""


class Page(list):
    token = None


@dataclass
class Stored:
    """A run as the store has it; points of one key, step, time and value stand there once."""

    run_id: str
    name: str
    start: int
    status: str = "RUNNING"
    end: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    points: list[tuple[str, int, int, float]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    outputs: list[LoggedModelOutput] = field(default_factory=list)
    deleted: bool = False

    def shown(self) -> Run:
        latest: dict[str, tuple[int, int, float]] = {}
        for key, *point in self.points:
            latest[key] = max(latest.get(key, (-1, -1, 0.0)), tuple(point))
        info = RunInfo(
            self.run_id, "1", "me", self.status, self.start, self.end, "active", self.run_id
        )
        data = RunData(
            [Metric(k, value, at, step) for k, (step, at, value) in latest.items()],
            [MlflowParam(k, v) for k, v in self.params.items()],
            [RunTag(k, v) for k, v in self.tags.items()],
        )
        return Run(info, data, None, RunOutputs(list(self.outputs)))


@dataclass
class StoredModel:
    """A logged model as the store has it."""

    model_id: str
    name: str
    run_id: str
    tags: dict[str, str]
    params: dict[str, str]
    status: LoggedModelStatus = LoggedModelStatus.PENDING
    points: list[tuple[str, int, int, float]] = field(default_factory=list)

    def shown(self) -> LoggedModel:
        points = [Metric(k, value, at, step) for k, step, at, value in self.points]
        params = [LoggedModelParameter(k, v) for k, v in self.params.items()]
        return LoggedModel(
            "1", self.model_id, self.name, "where", 1, 1, None, self.run_id, self.status, None,
            dict(self.tags), params, points,
        )  # fmt: skip


class FakeMlflow:
    """One store for many clients. ``faults`` are those of the next requests; then all is well."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.faults = list(faults)
        self.runs: dict[str, Stored] = {}
        self.models: dict[str, StoredModel] = {}
        self.experiment: str | None = None
        self.experiment_tags: dict[str, str] = {}
        self.requests = 0
        self._late = None

    def active(self) -> list[Stored]:
        return [run for run in self.runs.values() if not run.deleted]

    def content(self) -> dict[str, object]:
        """All that is shown, by what a run is of; runs' ids are the store's own.

        Without times: a trial that is begun again has two, and the store has that of which it was
        told.
        """
        of = {run.run_id: run.tags.get("paretune.trial", "study") for run in self.active()}
        own = {"paretune.owner", "paretune.beat"}
        found = {}
        for run in self.active():
            tags = {k: self._named(v, of) for k, v in run.tags.items() if k not in own}
            name = of[run.run_id]
            assert name not in found, f"two runs of {name}"
            points = sorted((key, step, value) for key, step, at, value in run.points)
            found[name] = (run.name, run.status, run.end, tags, run.params, points, run.files)
        return found | {"models": self._models(of), "experiment": dict(self.experiment_tags)}

    def _named(self, text: str, of: dict[str, str]) -> str:
        """With what a run is of in the place of its id."""
        return re.sub(r"\br\d+\b", lambda found: of.get(found[0], found[0]), text)

    def _models(self, of: dict[str, str]) -> dict[str, object]:
        """The logged models, by the trial that each is of."""
        found = {}
        for model in self.models.values():
            tags = {k: self._named(v, of) for k, v in model.tags.items()}
            name = of[model.run_id]
            assert name not in found, f"two models of {name}"
            points = sorted((key, step, value) for key, step, at, value in model.points)
            made_by = [run.run_id for run in self.active() for one in run.outputs
                       if one.model_id == model.model_id]  # fmt: skip
            assert made_by == [model.run_id]
            found[name] = (model.name, model.status, tags, model.params, points)
        return found

    def client(self, uri: str = "") -> FakeMlflow:
        return self

    def _request(self, action, empty):
        """Do it, or not, as the schedule says."""
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else Fault.NONE
        late, self._late = self._late, None
        try:
            if fault is Fault.REFUSED:
                raise MlflowException("503: the server is away")
            if fault is Fault.EMPTY:
                return empty
            if fault is Fault.LATE:
                self._late = action
                raise MlflowException("timed out")
            answer = action()
            if fault is Fault.UNANSWERED:
                raise MlflowException("the connection was closed")
            if fault is Fault.DIES:
                raise TrackerDied
            return answer
        finally:
            if late is not None:
                late()

    def _run(self, run_id: str) -> Stored:
        run = self.runs.get(run_id)
        if run is None:
            raise MlflowException(f"Run '{run_id}' not found", RESOURCE_DOES_NOT_EXIST)
        return run

    def get_experiment_by_name(self, name):
        found = SimpleNamespace(experiment_id=self.experiment) if self.experiment else None
        return self._request(lambda: found, SimpleNamespace(experiment_id=""))

    def create_experiment(self, name):
        def make():
            if self.experiment:
                raise MlflowException("exists")
            self.experiment = "1"
            return "1"

        return self._request(make, "")

    def get_experiment(self, experiment):
        def find():
            return SimpleNamespace(experiment_id=experiment, tags=dict(self.experiment_tags))

        return self._request(find, SimpleNamespace(experiment_id="", tags={}))

    def set_experiment_tag(self, experiment, key, value):
        assert len(value) <= 5000
        self._request(lambda: self.experiment_tags.update({key: value}), None)

    def delete_experiment_tag(self, experiment, key):
        def delete():
            if self.experiment_tags.pop(key, None) is None:
                raise MlflowException("no such tag", RESOURCE_DOES_NOT_EXIST)

        self._request(delete, None)

    def search_runs(self, experiments, condition, view, most, order, token):
        tags = re.findall(r"tags\.`([^`]+)` (=|!=) '([^']*)'", condition)
        status = re.findall(r"attributes\.status = '(\w+)'", condition)
        listed = re.search(r"attributes\.run_id IN \((.*?)\)", condition)
        ids = re.findall(r"'(\w+)'", listed[1]) if listed else self.runs

        def find():
            return Page(
                run.shown()
                for run in self.active()
                if all((run.tags.get(k) == v) == (op == "=") for k, op, v in tags)
                and all(run.status == s for s in status)
                and run.run_id in ids
            )

        return self._request(find, Page())

    def create_run(self, experiment, start_time=None, tags=None, run_name=None):
        def make():
            run = Stored(f"r{len(self.runs)}", run_name, start_time or 1, tags=dict(tags))
            self.runs[run.run_id] = run
            return run.shown()

        return self._request(make, Stored("", "", 0).shown())

    def get_run(self, run_id):
        return self._request(lambda: self._run(run_id).shown(), Stored("", "", 0).shown())

    def delete_run(self, run_id):
        def delete():
            self._run(run_id).deleted = True

        self._request(delete, None)

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        assert len(metrics) + len(params) + len(tags) <= 1000
        assert max(len(params), len(tags)) <= 100

        def log():
            run = self._run(run_id)
            if run.deleted:
                raise MlflowException("the run must be active")
            for metric in metrics:
                point = (metric.key, metric.step, metric.timestamp, metric.value)
                held = self.models[metric.model_id] if metric.model_id else run
                if point not in held.points:
                    held.points.append(point)
            run.params |= {p.key: p.value for p in params}
            run.tags |= {t.key: t.value for t in tags}

        self._request(log, None)

    def _settled(self, run_id, status, end=None):
        def change():
            run = self._run(run_id)
            run.status, run.end = status, end or run.end

        self._request(change, None)

    def update_run(self, run_id, status):
        self._settled(run_id, status)

    def set_terminated(self, run_id, status, end_time=None):
        self._settled(run_id, status, end_time)

    def put_file(self, run_id, path, folder=None):
        with open(path) as file:
            text, name = file.read(), os.path.basename(path)
        name = f"{folder}/{name}" if folder else name
        self._request(lambda: self._run(run_id).files.update({name: text}), None)

    def files_at(self, run_id, path=None):
        def find():
            files = self._run(run_id).files.items()
            under = [(k, v) for k, v in files if os.path.dirname(k) == (path or "")]
            return [FileInfo(k, False, len(v.encode())) for k, v in under]

        return self._request(find, [])

    def create_logged_model(self, experiment, name=None, source_run_id=None, tags=None,
                            params=None):  # fmt: skip
        def make():
            assert not set(name) & set("/:.%\"'")
            model_id = f"m{self.requests}"
            model = StoredModel(model_id, name, source_run_id, dict(tags), dict(params))
            self.models[model_id] = model
            return model.shown()

        return self._request(make, StoredModel("", "", "", {}, {}).shown())

    def log_outputs(self, run_id, models):
        self._request(lambda: self._run(run_id).outputs.extend(models), None)

    def search_logged_models(self, experiments, condition, order_by=None, page_token=None):
        ((key, value),) = re.findall(r"tags\.`([^`]+)` = '([^']*)'", condition)

        def find():
            return Page(m.shown() for m in self.models.values() if m.tags.get(key) == value)

        return self._request(find, Page())

    def _model(self, model_id: str) -> StoredModel:
        if model_id not in self.models:
            raise MlflowException(f"Model '{model_id}' not found", RESOURCE_DOES_NOT_EXIST)
        return self.models[model_id]

    def set_logged_model_tags(self, model_id, tags):
        self._request(lambda: self._model(model_id).tags.update(tags), None)

    def finalize_logged_model(self, model_id, status):
        def finish():
            self._model(model_id).status = status

        self._request(finish, None)

    def delete_logged_model(self, model_id):
        def delete():
            self._model(model_id)
            del self.models[model_id]

        self._request(delete, None)
