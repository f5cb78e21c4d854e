"""The points of a front as MLflow's logged models: for its Models tab, beside one another.

A model is "external": its file stays where it is, among the artifacts of its run, and is named by
a tag. Servers before MLflow 3 have no such models; they are left without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException

from study.tracking.client import Client
from study.tracking.stored import NotTaken

__all__ = ["Model", "Models"]

STUDY, TRIAL, ON_FRONT = "paretune.study", "paretune.trial", "on_front"
_FORBIDDEN = str.maketrans(dict.fromkeys("/:.%\"'", "-"))


@dataclass(frozen=True)
class Model:
    """What is to be shown of a point: that of its run ``run_id``."""

    trial_id: str
    run_id: str
    name: str
    params: Mapping[str, str]
    metrics: Sequence[Metric]
    tags: Mapping[str, str]

    def is_shown(self, found: LoggedModel) -> bool:
        """Whether the store holds all of it."""
        tags = all(found.tags.get(key) == value for key, value in self.tags.items())
        return tags and not self.lacking(found) and found.status == LoggedModelStatus.READY

    def lacking(self, found: LoggedModel) -> list[Metric]:
        """Metrics that the store does not hold."""
        held = [(metric.key, metric.value) for metric in found.metrics or ()]
        return [
            metric
            for metric in self.metrics
            if not any(k == metric.key and math.isclose(v, metric.value) for k, v in held)
        ]


class Models:
    """The logged models of one study. Calls may raise MLflow's errors and can be repeated."""

    def __init__(self, client: Client, experiment: str, study_id: str) -> None:
        self._client, self._experiment, self._study_id = client, experiment, study_id

    def show(self, front: Sequence[Model]) -> None:
        """Bring them up to the front: a model a point; those that left it are tagged so.

        Raises:
            NotTaken: the store does not show what it was sent.
        """
        try:
            found = self._found()
        except MlflowException as error:
            if error.error_code == "ENDPOINT_NOT_FOUND":
                return
            raise
        for model in front:
            self._write(model, found.get(model.trial_id))
        wanted = {model.trial_id: model for model in front}
        for trial_id in found.keys() - wanted.keys():
            self._tag(found[trial_id], {ON_FRONT: "false"})
        for trial_id, now in self._found(final=True).items():
            one = wanted.pop(trial_id, None)
            if not (one.is_shown(now) if one else now.tags.get(ON_FRONT) == "false"):
                raise NotTaken("it took what was said of a model, but does not show it")
            if one:
                self._link(one.run_id, now.model_id)
        if wanted:
            raise NotTaken("it took a model, but does not show it")

    def _write(self, model: Model, found: LoggedModel | None) -> None:
        if found is None:
            found = self._client.create_logged_model(
                self._experiment,
                model.name.translate(_FORBIDDEN),
                model.run_id,
                {STUDY: self._study_id, TRIAL: model.trial_id, **model.tags},
                dict(model.params),
            )
            if not found.model_id:
                raise NotTaken("it says nothing of the model that it was to make")
        if missing := model.lacking(found):
            points = [Metric(m.key, m.value, m.timestamp, m.step, found.model_id) for m in missing]
            self._client.log_batch(model.run_id, points)
        self._tag(found, model.tags)
        if found.status != LoggedModelStatus.READY:
            self._client.finalize_logged_model(found.model_id, LoggedModelStatus.READY)

    def _link(self, run_id: str, model_id: str) -> None:
        """Let the run's page lead to its model."""
        if model_id in self._outputs(run_id):
            return
        self._client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
        if model_id not in self._outputs(run_id):
            raise NotTaken("it took the model of a run, but does not show it")

    def _outputs(self, run_id: str) -> set[str]:
        outputs = self._client.get_run(run_id).outputs
        return {model.model_id for model in outputs.model_outputs} if outputs else set()

    def _tag(self, found: LoggedModel, tags: Mapping[str, str]) -> None:
        if changed := {k: v for k, v in tags.items() if found.tags.get(k) != v}:
            self._client.set_logged_model_tags(found.model_id, changed)

    def _found(self, final: bool = False) -> dict[str, LoggedModel]:
        """Those that the store holds, by trial; one that was made twice is left once."""
        found: dict[str, LoggedModel] = {}
        for model in list(self._all()):
            trial_id = model.tags.get(TRIAL, "")
            if trial_id not in found:
                found[trial_id] = model
                continue
            self._client.delete_logged_model(model.model_id)  # the answer to its making was lost
            if final:
                raise NotTaken("it holds a model twice")
        return found

    def _all(self) -> Iterator[LoggedModel]:
        condition, token = f"tags.`{STUDY}` = '{self._study_id}'", None
        order = [{"field_name": "creation_timestamp", "ascending": True}]
        while True:
            page = self._client.search_logged_models(
                [self._experiment], condition, order_by=order, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return
