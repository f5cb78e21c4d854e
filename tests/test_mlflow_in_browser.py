"""A finished study in MLflow's own pages, in headless Chromium: what people look for is there."""

from __future__ import annotations

import json
from types import SimpleNamespace
from urllib.parse import urlsplit

import browsers
import pytest
from mlflow_server import MlflowServer
from studies import run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(browsers.missing()), reason=browsers.missing() or "there is one"),
]
TRAINING = "workflowType=machine_learning"
WAIT = 60_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def seen(server, tmp_path_factory):
    """What the command says of a study, and what MLflow's client finds of it."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("study")
    asked = ["--name", "seen", "--trials", "8", "--tracking-uri", server.uri, "--json"]
    done = run(folder, *asked, "--set", "space.adapter=[lora]", "--set", "epochs=4")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(server.uri)
    (experiment,) = (e.experiment_id for e in client.search_experiments() if e.name != "Default")
    runs = client.search_runs([experiment])
    (parent,) = (r for r in runs if "paretune.trial" not in r.data.tags)
    trials = [r for r in runs if r is not parent]
    return SimpleNamespace(
        said=json.loads(done.stdout),
        client=client,
        experiment=experiment,
        parent=parent,
        trials=trials,
        front=[r for r in trials if r.data.tags["on_front"] == "true"],
    )


@pytest.fixture(scope="module")
def started():
    with browsers.browser() as browser:
        yield browser


@pytest.fixture
def tab(started, server):
    """A tab that reaches this server and nothing else; no page of it may fail."""
    # To who comes first the pages show an assistant, over a quarter of the screen.
    come_before = {"name": "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "value": "true"}
    stored = {"origins": [{"origin": server.uri, "localStorage": [come_before]}]}
    size = {"width": 1280, "height": 900}
    context = started.new_context(viewport=size, storage_state=stored)
    context.set_default_timeout(WAIT)
    context.route(lambda url: not _local(url), lambda route: route.abort())
    failed: list[str] = []
    context.on("weberror", lambda error: failed.append(str(error.error)))
    yield context.new_page()
    context.close()
    assert not failed, failed


def _local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob") or parts.hostname == "127.0.0.1"


def go(tab, server, page: str) -> None:
    tab.goto("about:blank")  # the address after the # alone loads nothing anew
    tab.goto(f"{server.uri}/#/experiments/{page}")


def names(runs) -> list[str]:
    return [run.info.run_name for run in runs]


def shown(tab, text: str):
    """What says this and nothing else, once it is to be seen."""
    found = tab.get_by_text(text, exact=True).first
    found.wait_for()
    return found


def followed(tab, text: str):
    """The tab that a link opens."""
    link = shown(tab, text)
    with tab.context.expect_page() as opened:
        link.click()
    return opened.value


def column(tab, name: str) -> list[str]:
    """The table's cells below a name, from the top."""
    cells = tab.locator(f"[role=row] [role=gridcell][col-id='{name}']")
    cells.first.wait_for()
    return cells.all_inner_texts()


def test_the_address_at_the_end_opens_the_studys_runs_in_columns_front_first(tab, seen):
    tab.goto(seen.said["runs_page"])
    header = tab.locator("[role=columnheader]")
    for name in ("on_front", "ratio", "val_accuracy", "test/accuracy", "file_bytes"):
        header.get_by_text(name, exact=True).wait_for()
    for name in names([*seen.trials, seen.parent]):
        shown(tab, name)
    on_front = column(tab, "tags.`on_front`")
    first = len(seen.front)
    assert on_front[:first] == ["true"] * first
    assert set(on_front[first:]) <= {"false", "-", ""}
    shown(tab, "seen")  # the view, by the study's name


def test_the_experiments_own_table_has_the_study_and_below_it_its_trials(tab, server, seen):
    go(tab, server, f"{seen.experiment}/runs?{TRAINING}")
    shown(tab, "seen")
    assert tab.get_by_text(seen.front[0].info.run_name, exact=True).count() == 0
    tab.locator("[role=row]").get_by_role("button").first.click()
    for name in names(seen.trials):
        shown(tab, name)


def test_the_studys_page_says_what_it_came_to_and_leads_to_the_report(tab, server, seen):
    go(tab, server, f"{seen.experiment}/runs/{seen.parent.info.run_id}?{TRAINING}")
    shown(tab, seen.said["headline"])
    shown(tab, "hypervolume")
    for name in names(seen.trials)[:1]:
        shown(tab, name)
    page = followed(tab, "The report").frame_locator("iframe")
    page.locator("h1").get_by_text("seen", exact=True).wait_for()
    # Files of the study do not stand beside this copy of its page.
    page.locator("#table tbody tr").first.wait_for()
    links = page.locator("#table tbody a")
    assert all(link.get_attribute("href").startswith("http") for link in links.all())
    assert links.count()


def test_from_the_studys_page_one_comes_to_the_charts(tab, server, seen):
    """Those by epoch have a line for each of several runs, all over the same epochs."""
    go(tab, server, f"{seen.experiment}/runs/{seen.parent.info.run_id}?{TRAINING}")
    tab = followed(tab, "Charts")
    for title in ("ratio vs. val_accuracy", "val/accuracy", "train/loss"):
        shown(tab, title).scroll_into_view_if_needed()
    card = tab.locator("[data-testid='experiment-view-compare-runs-card']")
    lines = card.filter(has_text="val/accuracy").locator(".scatterlayer .trace")
    browsers.until(lambda: lines.count() >= 2, WAIT / 1000)


def test_a_metric_means_the_same_in_every_run_epoch_by_epoch(seen):
    for trial in seen.trials:
        done = int(trial.data.metrics["epochs_done"])
        for key, first in (("val/accuracy", 0), ("train/loss", 1)):
            history = seen.client.get_metric_history(trial.info.run_id, key)
            assert sorted(point.step for point in history) == list(range(first, done + 1))


def test_pictures_and_tables_of_a_study_can_be_looked_at(tab, server, seen):
    page = f"{seen.experiment}/runs/{seen.parent.info.run_id}/artifacts"
    go(tab, server, f"{page}/front.png?{TRAINING}")
    picture = tab.locator("img[src^='blob:'], img[src*='front.png']").first
    picture.wait_for()
    browsers.until(lambda: picture.evaluate("image => image.naturalWidth") > 300, WAIT / 1000)
    go(tab, server, f"{page}/study.json?{TRAINING}")
    tab.get_by_text('"schema"').first.wait_for()
    go(tab, server, f"{page}/summary.md?{TRAINING}")
    tab.get_by_text("What to ship").first.wait_for()


def test_a_run_on_the_front_leads_to_its_study_and_its_model(tab, server, seen):
    run_id = seen.front[0].info.run_id
    go(tab, server, f"{seen.experiment}/runs/{run_id}?{TRAINING}")
    name = seen.front[0].info.run_name
    model = seen.client.search_logged_models([seen.experiment], f"source_run_id = '{run_id}'")[0]
    tab.locator(f"a[href*='{seen.parent.info.run_id}']").first.wait_for()
    tab.locator(f"a[href*='{model.model_id}']").get_by_text(name, exact=True).first.wait_for()


def test_the_models_of_the_front_are_listed(tab, server, seen):
    go(tab, server, f"{seen.experiment}/models?{TRAINING}")
    for name in names(seen.front):
        shown(tab, name)
    dense = next(r for r in seen.trials if r.data.tags["role"] == "dense")
    assert dense not in seen.front
    assert tab.get_by_text(dense.info.run_name, exact=True).count() == 0
