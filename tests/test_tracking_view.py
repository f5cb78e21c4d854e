"""How MLflow shows a study at first sight; in a browser: test_mlflow_in_browser."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_mlflow import FakeMlflow, Fault
from fake_runner import CONFIG, FakeRunner
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    ENDPOINT_NOT_FOUND,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
)

from study.config import parse_config
from study.finished import Finished
from study.growth import Growth
from study.objectives import aims
from study.store.storage import Storage
from study.tracking.pages import Pages
from study.tracking.shown import growth
from study.tracking.stored import NotTaken
from study.tracking.view import MOST, TAG, View, Views


def view(number: int = 0, **more) -> View:
    wanted = {"name": "s", "metric": "accuracy", "further": (), "at": 100.0 + number}
    return View(**{"study_id": f"{number:016x}", **wanted, **more})


def state(one: View):
    return json.loads(json.loads(one.as_tag())["state"])


def test_how_the_front_grew_is_a_line_through_its_hypervolume_after_each_trial(tmp_path):
    runner = FakeRunner(parse_config(CONFIG)).run()
    config = runner.config
    goals, chance = aims(config.task), config.task.chance
    grown = Growth(goals, chance)
    grown.look(runner.state)
    metric = goals[0].objective
    objectives = [{"name": goal.name, "direction": goal.objective.direction} for goal in goals]
    info = {"objectives": objectives, "reference": {metric.name: chance}}
    storage = Storage.open(tmp_path)
    line = [*growth(Finished("s", storage, info, runner.state))]
    steps = range(1, len(grown.volumes) + 1)
    found = np.interp(steps, [point.step for point in line], [point.value for point in line])
    assert found == pytest.approx(grown.volumes)
    assert len(line) < len(grown.volumes)
    del info["reference"]
    assert not [*growth(Finished("s", storage, info, runner.state))]


@pytest.fixture
def store():
    return FakeMlflow()


def test_columns_are_of_the_studys_own_metric_each_once_and_of_what_else_it_trades():
    found = state(view(metric="f1", further=("macs", "file_bytes")))
    names = [column.split("`")[1] for column in found["selectedColumns"]]
    assert names[:5] == ["on_front", "ratio", "val_f1", "test/f1", "macs"]
    assert len(set(names)) == len(names)
    assert found["columnOrder"] == found["selectedColumns"] == list(found["columnWidths"])
    assert not any("accuracy" in text for text in map(str, found.values()))


def test_every_chart_stands_in_a_section_and_has_a_name_of_its_own():
    found = state(view())
    charts, sections = found["compareRunCharts"], found["compareRunSections"]
    assert {chart["metricSectionId"] for chart in charts} == {one["uuid"] for one in sections}
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_a_tag_is_as_long_as_servers_take_it():
    long = view(name="n" * 5000, metric="m" * 60, further=("latency_ms", "nominal_ratio"))
    assert len(long.as_tag()) <= 5000


def test_a_view_that_is_there_is_left_as_somebody_changed_it(store):
    views = Views(store, "1")
    assert views.show(view())
    store.experiment_tags[TAG + view().key] = "changed"
    assert views.show(view())
    assert set(store.experiment_tags.values()) == {"changed"}


def test_the_latest_studies_keep_theirs_and_what_others_saved_stays(store):
    store.experiment_tags = {f"{TAG}{'a' * 64}": "by hand", "note": "mine", f"{TAG}paretune-x": "?"}
    views = Views(store, "1")
    for number in [*range(1, MOST + 5), 0]:
        assert views.show(view(number))
    ours = {key for key in store.experiment_tags if "paretune" in key}
    latest = range(6, MOST + 5)
    assert ours == {TAG + view(n).key for n in (0, *latest)}  # its own, however old
    assert len(ours) == MOST
    assert len(store.experiment_tags) == MOST + 2


@pytest.mark.parametrize("code", [ENDPOINT_NOT_FOUND, PERMISSION_DENIED, INVALID_PARAMETER_VALUE])
def test_a_server_that_takes_none_is_left_without(store, monkeypatch, code):
    def refuse(*args):
        raise MlflowException("no", code)

    monkeypatch.setattr(store, "set_experiment_tag", refuse)
    assert not Views(store, "1").show(view())


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.EMPTY])
@pytest.mark.parametrize("before", range(3))
def test_a_server_that_fails_is_told(fault, before):
    views = Views(FakeMlflow([*[Fault.NONE] * before, fault]), "1")
    with pytest.raises(MlflowException if fault is Fault.REFUSED else NotTaken):
        views.show(view())


def test_links_name_the_view_once_there_is_one():
    pages = Pages("7")
    assert (pages.runs, pages.links) == ("", [])
    pages.view = "k"
    assert pages.runs.startswith("#/experiments/7/runs?")
    assert "viewStateShareKey=k" in pages.runs
    assert all(pages.runs in link for link in pages.links)
    assert pages.run("r", "/artifacts/a.html").startswith(
        "#/experiments/7/runs/r/artifacts/a.html?"
    )
