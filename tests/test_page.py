"""The page's data: the numbers of the records, and names that stay names."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import synthetic_study as synthetic
from charted_study import charted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import columns, units
from analysis.charts import CHARTS
from analysis.charts.elsewhere import published_elsewhere
from analysis.columns import AXES
from analysis.findings import findings
from analysis.load import StudyDataError, load_study
from analysis.markup import safe, spans
from analysis.page.contents import contents
from analysis.page.document import as_json, document
from analysis.published import published_points
from analysis.trials import trials
from trainables.record import Direction, Objective, to_json

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- {{data}} -->",
    "\"quoted\" 'twice' `thrice` \\",
    "😀" * 100 + "é" * 100,
    "n" * 300,
    "\ud800 half a pair",
    "**bold** _x_ $y$ %{x}",
    "line\nbreak\u2028and\u2029another",
]


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text of the data and the title."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: dict[str, str] = {}
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        key = attributes.get("id", tag)
        self.text[key] = self.text.get(key, "") + data


@pytest.fixture
def light(monkeypatch):
    """Pages without the library, which takes long to be parsed."""
    monkeypatch.setattr("analysis.page.document._library", lambda: "")


@pytest.fixture(scope="module")
def found():
    return findings(synthetic.study(200))


@pytest.fixture(scope="module")
def said(found):
    return contents(found, {})


def column(section, name):
    return unpacked(section["columns"][name])


def setting_of(section, word):
    return unpacked(section["settings"][word])


def unpacked(of):
    return of["values"] if "values" in of else [of["names"][code] for code in of["codes"]]


def test_the_columns_are_the_records(found, said):
    front = said["front"]
    rows = list(trials(found))
    records = {row.record.trial_id: row.record for row in found.study.rows}
    assert front["count"] == len(rows) == len(column(front, "trial_id"))
    for at, trial_id in enumerate(column(front, "trial_id")):
        outcome = records[trial_id].outcome
        assert column(front, "ratio")[at] == outcome.size.ratio
        assert column(front, "file_bytes")[at] == outcome.size.file_bytes
        assert column(front, "macs")[at] == outcome.macs
        assert column(front, "val_accuracy")[at] == outcome.metrics["val"]["accuracy"]
        told = {word: setting_of(front, word)[at] for word in front["settings"]}
        asked = "; ".join(f"{w} {v}" for w, v in told.items() if v not in ("", None))
        assert sorted(asked.split("; ")) == sorted(rows[at]["setting"].split("; "))
        check = found.study.verifications.get(trial_id)
        assert column(front, "test_accuracy")[at] == (check and check.metrics["accuracy"])


def test_every_trial_that_was_scored_is_drawn_once(found, said):
    scored = [
        row.record.trial_id
        for row in found.study.rows
        if row.record.outcome.metrics and row.role != "confirm"
    ]
    assert sorted(column(said["front"], "trial_id")) == sorted(scored)


@pytest.mark.parametrize("x", AXES)
def test_the_line_over_any_axis_is_the_front_of_the_records(x, found, said):
    line = said["front"]["fronts"][x]["val_accuracy"]["line"]
    at = [(column(said["front"], x)[i], column(said["front"], "val_accuracy")[i]) for i in line]
    members = columns.front(found.study.rows, x)
    axis = AXES[x]
    expected = [
        (axis.of(row.record.outcome), row.record.outcome.metrics["val"]["accuracy"])
        for row in members
    ]
    assert at == expected


def test_the_reports_own_front_is_the_studys(found, said):
    own = said["front"]["fronts"]["ratio"]["val_accuracy"]
    ids = [column(said["front"], "trial_id")[i] for i in own["line"]]
    assert own["own"]
    assert ids == [point.values["trial_id"] for point in found.front]
    assert not said["front"]["fronts"]["file_bytes"]["val_accuracy"]["own"]


def test_the_table_shows_the_numbers_it_sorts_by(found, said):
    heads = [one["head"] for one in said["table"]["columns"]]
    for row, point in zip(said["table"]["rows"], found.front, strict=True):
        cells = dict(zip(heads, row, strict=True))
        ratio, validation = point.outcome.size.ratio, point.outcome.metrics["val"]["accuracy"]
        assert cells["ratio"] == [f"{ratio:.3g}×", ratio, ""]
        assert cells["validation"] == [units.value(found.y, validation), validation, ""]
        assert cells["test"][1] == point.verification.metrics["accuracy"]
        assert cells["file"][2] == f"../{point.values['artifact']}"
        assert point.values["trial_id"] in cells["run it again"][0]
        parts = cells["bytes by part"][0]
        assert all(f"{count:,}" in parts for count in vars(point.outcome.size.model).values())


def test_a_run_is_a_link_where_it_is_known_and_else_what_finds_it(found):
    first, second, *_ = (point.values["trial_id"] for point in found.front)
    link = "http://host:5000/#/experiments/1/runs/0a1b"
    study = replace(found.study, runs={first: link})
    table = contents(findings(study), {})["table"]
    at = [one["head"] for one in table["columns"]].index("MLflow run")
    assert table["rows"][0][at] == ["0a1b", "", link]
    assert table["rows"][1][at] == [f"tags.`paretune.trial` = '{second}'", "", ""]


@pytest.mark.parametrize(
    "told",
    [
        '{"a": "javascript:alert(1)//https://h/#/experiments/1/runs/1"}',
        '{"a": "http://h/#/experiments/1/runs/1?x"}',
        '{"a": 1}',
        "[]",
        "{",
    ],
)
def test_links_that_came_with_a_study_are_addresses_of_runs_or_refused(told, found, tmp_path):
    where = synthetic.write(tmp_path / "s", found.study)
    (where / "runs.json").write_text(told)
    with pytest.raises(StudyDataError, match=r"runs\.json"):
        load_study(str(where))
    link = "https://h:1/a/#/experiments/1/runs/0a1b"
    (where / "runs.json").write_text(json.dumps({"a": link}))
    assert load_study(str(where)).runs == {"a": link}


def test_what_runs_where_is_told_of_each_point(found):
    checks = {
        i: replace(one, runs_in={"onnx": "2 of 3 layers packed"})
        for i, one in found.study.verifications.items()
    }
    told = contents(findings(replace(found.study, verifications=checks)), {})["table"]
    at = [one["head"] for one in told["columns"]].index("runs in")
    assert {row[at][0] for row in told["rows"]} == {"onnx: 2 of 3 layers packed"}


def test_what_no_point_has_is_no_column(found):
    bare = replace(found.study, verifications={})
    heads = [one["head"] for one in contents(findings(bare), {})["table"]["columns"]]
    assert {"test", "drop", "flips"}.isdisjoint(heads)
    assert {"setting", "ratio", "validation"} <= set(heads)


@pytest.mark.parametrize("minimised", [False, True])
def test_whiskers_end_at_the_bounds_of_the_drop(found, minimised):
    if minimised:
        loss = Objective("nll", Direction.MINIMIZE, "nats")
        found = findings(synthetic.turned(found.study, loss, lambda a: 2 - a))
    for row, point in zip(trials(found), found.front, strict=False):
        y = found.y
        test = y.loss(row["test_" + y.name.removeprefix("val_")])
        assert np.isclose(y.loss(row["test_worst"]) - test, point.dense.upper - point.dense.drop)
        assert np.isclose(y.loss(row["test_best"]) - test, point.dense.lower - point.dense.drop)


def test_the_json_is_what_the_page_holds(found, light):
    data = contents(found, {name: maker(found) for name, maker in CHARTS.items() if maker(found)})
    held = Page(document(data)).text["data"]
    assert json.loads(held) == json.loads(as_json(data))


def hostile(name: str):
    data = charted(12)
    return replace(data, name=name, info={**data.info, "name": name, "task": name})


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup(name):
    plain, odd = (Page(document(contents(findings(hostile(n)), {}))) for n in ("plain", name))
    assert odd.tags == plain.tags
    assert json.loads(odd.text["data"])["name"] == name


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_any_name_comes_through(light, said, name):
    page = Page(document({**said, "name": name}))
    assert json.loads(page.text["data"])["name"] == name


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_spans_undo_what_makes_text_safe(text):
    assert "".join(piece for _, piece in spans(safe(text))) == " ".join(text.split())
    assert {style for style, _ in spans(safe(text))} <= {""}


def test_spans_tell_styles():
    text = r"**4.5×**, int1\_x (`a/b_c.safetensors`)."
    assert spans(text) == [
        ("strong", "4.5×"),
        ("", ", int1_x ("),
        ("code", "a/b_c.safetensors"),
        ("", ")."),
    ]


@pytest.mark.usefixtures("light")
def test_a_page_asks_nobody_for_anything(said):
    page = Page(document(said))
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert attributes.get("href", "data:,") == "data:,"
    policy = next(of["content"] for _, of in page.tags if "http-equiv" in of)
    assert policy.startswith("default-src 'none'")


def test_the_page_of_a_thousand_trials_is_below_8_mb():
    sizes = []
    for count in (100, 200):
        found = findings(charted(count))
        charts = {name: chart for name, make in CHARTS.items() if (chart := make(found))}
        sizes.append(len(document(contents(found, charts))))
    each = (sizes[1] - sizes[0]) / 100
    assert 0 < sizes[1] + 800 * each < 8e6


def test_settings_of_many_trials_are_columns_of_codes():
    found = findings(charted(400))
    front = contents(found, {})["front"]
    texts = sum(len(str(row["setting"])) for row in trials(found))
    assert len(json.dumps(front["settings"], separators=(",", ":"))) < texts / 2
    assert {"optimizer", "lr", "lr schedule", "batch size", "epochs", "seed"} <= set(
        front["settings"]
    )


def test_the_certified_point_is_told_by_its_row(found, said):
    marked = said["front"]["certified"]
    assert found.certified is not None
    ids = column(said["front"], "trial_id")
    assert ids[marked["row"]] == found.certified.values["trial_id"]
    assert marked["text"].endswith("certified within 1 pp")
    none = replace(found, tested=replace(found.tested, certified=()))
    assert contents(none, {})["front"]["certified"] is None


def test_each_latency_has_one_name(found):
    rows = []
    for row in found.study.rows:
        outcome = replace(row.record.outcome, latency_ms=3.0)
        rows.append(replace(row, record=replace(row.record, outcome=outcome)))
    checks = {i: replace(v, latency_ms=5.0) for i, v in found.study.verifications.items()}
    timed = findings(replace(found.study, rows=tuple(rows), verifications=checks))
    front = contents(timed, {})["front"]
    assert set(column(front, "latency_ms")) == {3.0}
    assert set(column(front, "verified_latency_ms")) == {5.0, None}
    assert {"latency_ms", "verified_latency_ms"} <= set(front["fronts"])
    for row in trials(timed):
        assert row["latency_ms"] == 3.0
        assert row["verified_latency_ms"] in (5.0, None)
    names = [one["name"] for one in contents(found, {})["front"]["x"]]
    assert not [name for name in names if "latency" in name]
    assert findings(timed.study, "latency_ms").front


def test_the_table_begins_with_what_is_asked_most(said):
    heads = [one["head"] for one in said["table"]["columns"]]
    assert heads[:7] == ["setting", "test", "drop", "file bytes", "ratio", "verified", "file"]


def test_missing_baselines_are_named(found):
    rows = tuple(row for row in found.study.rows if row.role not in ("fp16", "int8"))
    data = contents(findings(replace(found.study, rows=rows)), {})
    assert data["front"]["missing"] == ["fp16", "int8"]
    assert any("fp16, int8" in line[0][1] for line in data["honest"]["Not measured"])


def test_published_points_stand_on_the_axes_where_they_are_comparable(found):
    ours = [p for p in published_points() if p.system == "lora_compression" and p.value is not None]
    subject = to_json(ours[0].subject)
    alike = replace(found.study, info={**found.study.info, "subject": subject})
    data = contents(findings(alike, "nominal_ratio", published=("lora_compression",)), {})
    drawn = {
        pair for one in data["front"]["published"] for pair in zip(one["x"], one["y"], strict=True)
    }
    assert drawn == {(p.ratio, p.value) for p in ours}
    assert not data["honest"]["Published points"]
    apart = contents(findings(alike, "ratio", published=("lora_compression",)), {})
    assert not apart["front"]["published"]
    assert apart["honest"]["Published points"]


def test_intervals_over_seeds_are_those_that_were_frozen(found):
    members = [
        {
            "trial_id": point.values["trial_id"],
            "replicates": [point.values["trial_id"]],
            **{"mean": 0.9, "low": 0.8, "high": 0.95, "probability": 0.5},
        }
        for point in found.front
    ]
    frozen = replace(found.study, info={**found.study.info, "front": members})
    front = contents(findings(frozen), {})["front"]
    at = [i for i, place in enumerate(column(front, "place")) if place == "front"]
    ends = [[column(front, name)[i] for name in ("val_mean", "val_low", "val_high")] for i in at]
    assert ends == [[0.9, 0.8, 0.95]] * len(members)


def test_published_points_of_something_else_have_panels_that_say_why(found):
    placed = findings(found.study, published=("svd_lora",)).published
    chart = published_elsewhere(replace(found, published=placed))
    assert chart is not None
    drawn = {(row["x"], row["text"]) for row in chart.rows()}
    assert drawn == {(p.point.ratio, p.point.point) for p in placed if p.point.value is not None}
    reasons = {one.why_not for one in placed if one.point.value is not None}
    assert all(any(panel.title.endswith(why) for panel in chart.panels) for why in reasons)
    assert published_elsewhere(found) is None


def test_a_page_does_not_say_where_the_study_stands(found):
    where = "s3://KEY:SECRET@bucket/folder"
    data = contents(findings(replace(found.study, location=where)), {})
    assert "bucket" not in as_json(data).decode()
    assert "--study synthetic" in as_json(data).decode()
