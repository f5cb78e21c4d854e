"""Studies held against each other: who is ahead, how sure that is, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import charted_study as charted
import numpy as np
import pytest
import synthetic_study as synthetic
from click.testing import CliRunner

from analysis.columns import metric
from analysis.formats import COMPARED, FORMATS
from analysis.fronts import hypervolume
from analysis.load import StudyData, StudyDataError
from analysis.page.comparison import comparison
from analysis.page.document import COMPARISON as LAYOUT
from analysis.page.document import document
from analysis.pareto import main
from analysis.studies import files as compared_files
from analysis.studies.comparison import Comparison
from analysis.studies.contest import beaten, differences, over_repeats, places, volume
from analysis.studies.rivals import BESIDE, field
from analysis.studies.words import numbers, write
from study.config import StudyConfig
from trainables.record import Choice, Direction, Fingerprint, Objective


def study(name: str, trials: int = 60, seed: int = 0, **info) -> StudyData:
    return replace(charted.charted(trials, seed, **info), name=name)


def worse(of: StudyData, name: str, by: float = 0.05) -> StudyData:
    """The same study with every trial so much worse; baselines stay."""
    rows = []
    for row in of.rows:
        outcome = row.record.outcome
        if row.role == "search" and outcome.metrics:
            metrics = {"val": {"accuracy": outcome.metrics["val"]["accuracy"] - by}}
            row = replace(
                row, record=replace(row.record, outcome=replace(outcome, metrics=metrics))
            )
        rows.append(row)
    return replace(of, name=name, rows=tuple(rows))


def elsewhere(of: StudyData, name: str, task: str = "digits", **fingerprint) -> StudyData:
    """The same study on other data or weights."""
    rows = []
    for row in of.rows:
        origin = replace(
            row.record.origin,
            fingerprint=replace(Fingerprint("w" * 16, "d" * 16), **fingerprint),
        )
        trial = replace(row.record.trial, task=Choice(task))
        rows.append(replace(row, record=replace(row.record, trial=trial, origin=origin)))
    return replace(of, name=name, rows=tuple(rows))


@pytest.fixture(scope="module")
def pair():
    first = study("first")
    return field([first, worse(first, "second")])


def test_hypervolumes_are_those_of_the_records(pair):
    for rival in pair.rivals:
        rows = [r for r in rival.study.rows if r.role == "search" and r.record.outcome.sha256]
        losses = [(-metric(r, "val_accuracy"), -r.record.outcome.size.log2_ratio) for r in rows]
        assert volume(rival, pair.reference) == hypervolume(losses, (-0.1, 0.0))


def test_the_difference_has_its_sign_and_an_interval_around_it(pair):
    (one,) = differences(pair)
    assert (one.first, one.second) == ("first", "second")
    assert one.low < one.value < one.high
    assert one.low > 0
    turned = field([rival.study for rival in reversed(pair.rivals)])
    assert differences(turned)[0].value == -one.value


def test_a_study_and_its_twin_differ_by_nothing_within_an_interval():
    first = study("first")
    (one,) = differences(field([first, replace(first, name="twin")]))
    assert one.value == 0
    assert one.low < 0 < one.high


def test_the_interval_is_the_same_each_time(pair):
    assert differences(pair) == differences(pair)


def test_repeats_have_an_interval_over_repeats():
    space = {"params": {"rank": {}}}
    good = [study(f"good {i}", seed=i, space=space) for i in range(3)]
    bad = [worse(study("", seed=9 + i, space=space, searcher="tpe"), f"bad {i}") for i in range(3)]
    found = field([*good, *bad])
    (one,) = over_repeats(found)
    volumes = {rival.name: volume(rival, found.reference) for rival in found.rivals}
    means = [np.mean([volumes[f"{name} {i}"] for i in range(3)]) for name in ("good", "bad")]
    assert one.value == pytest.approx(means[0] - means[1])
    assert one.low < one.value < one.high
    made = Comparison(found)
    assert made.differences == []
    assert "good 0 (3 studies) less bad 0 (3 studies)" in write(made)
    titles = [panel.title for panel in made.chart.panels]
    assert titles[3:] == ["good 0 and its repeats, 3 studies", "bad 0 and its repeats, 3 studies"]


def test_repeats_are_told_by_the_budgets_asked_for_not_by_the_trials_run():
    """A suggestion that the record answers is no trial: one repeat can have more than another."""

    def asked(name: str, trials: int, seed: int, **budgets) -> StudyData:
        config = {"searcher": "tpe", "trials": 60, **budgets}
        return study(name, trials, seed, space={"params": {"rank": {}}}, config=config)

    found = field([asked("a", 60, 0), asked("b", 59, 1), asked("c", 60, 2, time_budget="4h")])
    assert [[rival.name for rival in group] for group in found.repeats] == [["a", "b"]]


OTHER = {
    "precision": "bfloat16",
    "constraints": ["drop <= 1pp"],
    "objectives": ["accuracy", "ratio", "macs"],
    "scheduler": "none",
    "epochs": 3,
    "recipe": ["progressive"],
    "calibration": {"samples": 9},
    "patience": 20,
    "trials": 61,
}


@pytest.mark.parametrize("key", [*OTHER, "warm_start", "plugins"])
def test_studies_that_searched_otherwise_are_no_repeats(key):
    def asked(name: str, seed: int, config=None, **info) -> StudyData:
        config = {"searcher": "tpe", "seed": seed, "name": name, **(config or {})}
        return study(name, 30, seed, space={"params": {"rank": {}}}, config=config, **info)

    more = {key: {"source": "other"} if key == "warm_start" else {"mine.py": "abc"}}
    other = asked("b", 1, {key: OTHER[key]}) if key in OTHER else asked("b", 1, **more)
    assert not field([asked("a", 0), other]).repeats
    assert field([asked("a", 0), asked("b", 1)]).repeats


def test_what_makes_no_other_search_are_keys_of_a_config():
    assert BESIDE < set(StudyConfig.model_fields)
    assert {"task", "searcher", "precision", "constraints"} <= set(
        StudyConfig.model_fields
    ) - BESIDE


def test_who_is_ahead_is_read_off_the_records(pair):
    for place in places(pair):
        for rival, best in zip(pair.rivals, place.best, strict=True):
            values = [
                metric(r, "val_accuracy")
                for r in rival.study.rows
                if r.role == "search"
                and r.record.outcome.sha256
                and r.record.outcome.size.ratio >= place.ratio
            ]
            assert best == max(values, default=None)
        assert place.leaders == ("first",)
        assert place.lead == pytest.approx(0.05)


def test_points_are_beaten_by_the_study_that_is_better_everywhere(pair):
    found = {(name, by): (lost, points) for name, by, lost, points in beaten(pair)}
    lost, points = found["second", "first"]
    assert lost == points > 0
    assert found["first", "second"][0] == 0


def test_every_point_of_a_front_is_in_the_table_with_who_beats_it(pair):
    members = list(Comparison(pair).members())
    assert [m["study"] for m in members].count("first") == len(pair.rivals[0].front)
    assert {m["dominated_by"] for m in members if m["study"] == "second"} == {"first"}
    for member in members:
        assert member["compared"] == member["val_accuracy"]


def test_json_holds_the_numbers_of_the_words(pair):
    made = Comparison(pair)
    told = json.loads(json.dumps(numbers(made), allow_nan=False))
    assert told["hypervolumes"] == dict(made.volumes)
    assert told["reference"] == {"val_accuracy": 0.1, "log2_ratio": 0.0}
    assert f"{told['differences'][0]['value']:+.4f}" in write(made)


def test_a_metric_to_be_small_is_compared_from_below():
    loss = Objective("perplexity", Direction.MINIMIZE)
    first = synthetic.turned(study("first"), loss, lambda a: 10 / (0.1 + a))
    second = synthetic.turned(worse(study("x"), "second"), loss, lambda a: 10 / (0.1 + a))
    found = field([first, replace(second, name="second")])
    assert {place.leaders for place in places(found)} == {("first",)}
    assert differences(found)[0].value > 0
    assert all((p.lead or 1) > 0 for p in places(found))


OTHERS = {
    "tasks differ: first digits, other mnist;": {"task": "mnist"},
    "splits differ: first dddddddddddddddd, other 1;": {"data": "1"},
    "dense baselines differ: first wwwwwwwwwwwwwwww, other 2;": {"weights": "2"},
}


@pytest.mark.parametrize("message", OTHERS)
def test_what_shares_no_axis_is_refused_in_a_sentence(message):
    first = study("first")
    other = elsewhere(first, "other", **OTHERS[message])
    with pytest.raises(StudyDataError, match=message) as caught:
        field([first, other])
    assert len(str(caught.value).splitlines()) == 1
    assert "--normalise" in str(caught.value)


def test_normalised_metrics_are_held_against_each_ones_dense_model():
    first = study("first")
    other = elsewhere(worse(first, "other"), "other", task="mnist", data="1")
    found = field([first, other], normalise=True)
    dense = next(metric(row, "val_accuracy") for row in first.rows if row.role == "dense")
    for rival in found.rivals:
        for row, losses in rival.front:
            assert -losses[0] == pytest.approx(metric(row, "val_accuracy") - dense)
    words = write(Comparison(found))
    assert "less that of each study's own dense model" in words
    assert "Tasks, splits or baselines were allowed to differ" in words
    assert "dense's" in Comparison(found).chart.panels[0].y.label


@pytest.mark.parametrize("what", [{"task": "mnist"}, {"data": "1"}, {"weights": "2"}])
def test_studies_of_one_name_are_told_apart_by_their_folders(what):
    first = replace(study("first"), location="a/first")
    other = replace(elsewhere(first, "first", **what), location="b/first")
    with pytest.raises(StudyDataError, match=r"differ: a/first .*, b/first ") as caught:
        field([first, other])
    assert "--normalise holds each" in str(caught.value)


def test_of_other_metrics_the_difference_is_a_share_of_denses():
    loss = Objective("perplexity", Direction.MINIMIZE)
    first = synthetic.turned(study("first"), loss, lambda a: 10 / (0.1 + a))
    found = field([first, replace(first, name="twin")], normalise=True)
    dense = next(metric(row, "val_perplexity") for row in first.rows if row.role == "dense")
    row, losses = found.rivals[0].front[0]
    assert losses[0] == pytest.approx(metric(row, "val_perplexity") / dense - 1)


def lost(row):
    """An outcome without its file."""
    return replace(row.record.outcome, sha256=None)


def test_all_that_is_wrong_is_said_at_once():
    first = study("first")
    other = elsewhere(first, "other", task="mnist", data="1", weights="2")
    with pytest.raises(StudyDataError) as caught:
        field([first, other])
    assert len(str(caught.value).splitlines()) == 3
    bare = replace(first, name="bare", rows=first.rows[4:])
    with pytest.raises(StudyDataError, match="bare: has no dense baseline with val_accuracy"):
        field([first, bare], normalise=True)
    rows = [replace(r, record=replace(r.record, outcome=lost(r))) for r in first.rows]
    with pytest.raises(StudyDataError, match="gone: no trial of it has a file"):
        field([first, replace(first, name="gone", rows=tuple(rows))])
    with pytest.raises(StudyDataError, match="no trial of it has val_bleu"):
        field([first, other], "val_bleu")


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("studies")
    first = study("first")
    made = {"first": first, "second": worse(first, "second")}
    for name, one in made.items():
        info = {**one.info, "name": name}
        synthetic.write(folder / name, replace(one, info=info))
    return str(folder / "first"), str(folder / "second")


def pareto(*arguments: str):
    return CliRunner().invoke(main, arguments)


def test_the_command_writes_a_comparison(stored, tmp_path):
    done = pareto(*stored, "--compare", "--output", str(tmp_path / "out"), "--format", "md,csv,png")
    assert done.exit_code == 0, done.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"comparison.md", "comparison.csv", "comparison.png", ".comparison.json"}
    rows = list(csv.DictReader(Path(tmp_path / "out/comparison.csv").read_text().splitlines()))
    assert {row["study"] for row in rows} == {"first", "second"}
    assert "first less second: **+" in (tmp_path / "out/comparison.md").read_text()


def test_a_comparison_has_every_format_of_a_report():
    assert COMPARED.keys() == FORMATS.keys() == compared_files.MAKERS.keys()


def test_the_page_says_and_draws_what_the_words_and_the_chart_do(pair):
    made = Comparison(pair)
    told = comparison(made)
    assert "".join(text for _, text in told["title"]) in write(made).replace("\\", "")
    (chart,) = told["charts"].values()
    points = [s for s in chart["panels"][0]["series"] if s["mark"] == "points"]
    for series, rival in zip(points, pair.rivals, strict=True):
        assert series["y"] == [metric(row, "val_accuracy") for row, _ in rival.front]
    for part in told["parts"]:
        assert {len(row) for row in part["rows"]} <= {len(part["head"])}


def test_the_page_holds_no_markup_of_names():
    hostile = "</script><img src=x onerror=alert(1)>"
    first = study("first")
    page = document(comparison(Comparison(field([first, worse(first, hostile)]))), LAYOUT)
    assert b"<img" not in page
    assert b"{{" not in page.split(b"</script>")[-1]


def test_reports_that_would_overwrite_each_other_are_refused(tmp_path):
    one = study("first")
    paths = [str(synthetic.write(tmp_path / of / "first", one)) for of in ("a", "b")]
    done = pareto(*paths, "--output", str(tmp_path / "out"), "--format", "md")
    assert done.exit_code == 2
    assert "would overwrite each other there" in done.output
    assert all(path in done.output for path in paths)
    assert not (tmp_path / "out").exists()
    assert pareto(*paths, "--format", "md").exit_code == 0


BAD = [
    (("FIRST", "--compare"), "--compare needs two studies or more"),
    (("FIRST", "FIRST", "--compare"), "is named twice; a study cannot be held against itself"),
    (("FIRST", "SECOND", "--compare", "--x", "macs"), "--x: means nothing beside --compare"),
    (("FIRST", "--normalise"), "--normalise: means nothing without --compare"),
    (("FIRST", "SECOND", "--compare", "--y", "val_bleu"), "no trial of it has val_bleu"),
    (("FIRST", "--objectives", "val_accuracy,ratio"), "expected 3 objectives"),
    (("FIRST", "--objectives", "ratio,ratio,macs"), "ratio: named twice"),
    (("FIRST", "--objectives", "accuracy,ration,macs"), "did you mean ratio?"),
    (("FIRST", "--objectives", "accuracy,ratio,latency_ms"), "no trial of first has latency_ms"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[m for _, m in BAD])
def test_the_command_refuses_what_means_nothing(stored, arguments, message, tmp_path):
    places_of = {"FIRST": stored[0], "SECOND": stored[1]}
    out = tmp_path / "out"
    given = [places_of.get(argument, argument) for argument in arguments]
    done = pareto(*given, "--output", str(out))
    assert done.exit_code == 2
    assert message in done.output
    assert not out.exists()
