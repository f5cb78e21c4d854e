"""What every chart keeps to; a chart that is added to CHARTS is tested by what is here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import charted_study as charted
import pytest
import synthetic_study as synthetic

from analysis.charts import CHARTS
from analysis.charts.chart import Chart, Mark
from analysis.findings import Findings, findings
from analysis.load import Row, StudyData, StudyDataError, load_study
from trainables.record import Choice, Direction, Objective, Outcome, Record, Status

PERPLEXITY = Objective("perplexity", Direction.MINIMIZE)


def one_point(study: StudyData) -> StudyData:
    """All trials with the outcome of the first."""
    done = [r for r in study.rows if r.role == "search" and r.record.outcome.sha256]
    same = [replace(r, record=replace(r.record, outcome=done[0].record.outcome)) for r in done]
    return replace(study, rows=(*synthetic.baselines(), *same))


def one_trial() -> StudyData:
    study = charted.of_status(charted.charted(20), Status.COMPLETED)
    return replace(study, rows=study.rows[:5])


def failing() -> StudyData:
    """One trial that came to something, and many that did not."""
    study = one_trial()
    asked = synthetic.trial(Choice("int1"))
    lost = Record(asked, Outcome(Status.FAILED, error="step 3: loss is nan"), synthetic.ORIGIN)
    failed = [Row(replace(lost, trial=replace(asked, seed=n)), number=n) for n in range(30)]
    return replace(study, rows=(*study.rows, *failed))


def old() -> StudyData:
    """As the first versions wrote it: no config, reference or space; no seconds and no curves."""
    study = charted.charted(60)
    bare = [
        replace(
            r, record=replace(r.record, outcome=replace(r.record.outcome, seconds=None, curve=()))
        )
        for r in study.rows
    ]
    return replace(study, info={"schema": 1, "name": "old"}, rows=tuple(bare))


def hostile() -> StudyData:
    """Methods with names that are markup, 300 characters long, and in emoji."""
    study = charted.charted(60)
    names = ["</script><b>$x$", "n" * 300, "🦊", "\"'\\"]
    rows = []
    for row in study.rows:
        rule = row.record.trial.layers[0]
        rule = replace(rule, methods=(Choice(names[row.number % 4]),))
        trial = replace(row.record.trial, layers=(rule,))
        rows.append(replace(row, record=replace(row.record, trial=trial)))
    return replace(study, rows=tuple(rows))


CASES = {
    "a study": lambda: charted.charted(120),
    "with seeds": lambda: charted.again(charted.charted(120)),
    "tiny": lambda: charted.charted(6),
    "one trial": one_trial,
    "failed trials": failing,
    "without recovery": lambda: charted.without_recovery(charted.charted(120)),
    "without baselines": lambda: replace(charted.charted(60), rows=charted.charted(60).rows[4:]),
    "all on one point": lambda: one_point(charted.charted(60)),
    "a metric to be small": lambda: synthetic.turned(
        charted.charted(60), PERPLEXITY, lambda accuracy: 10 / (0.1 + accuracy)
    ),
    "an early version": old,
    "hostile names": hostile,
}


@cache
def case(name: str) -> StudyData:
    return CASES[name]()


@cache
def found(name: str, x: str = "ratio") -> Findings:
    return findings(case(name), x)


@pytest.fixture(params=CHARTS)
def maker(request):
    return CHARTS[request.param]


@cache
def drawn(name: str) -> list[Chart]:
    """A chart of every case in which there is something to show."""
    made = [CHARTS[name](found(case)) for case in CASES]
    made += [CHARTS[name](found(case, "file_bytes")) for case in ("with seeds", "tiny")]
    return [chart for chart in made if chart is not None]


@pytest.fixture(params=CHARTS)
def charts(request) -> list[Chart]:
    return drawn(request.param)


def series_of(charts: list[Chart]):
    """Every series with its panel."""
    return [(p, series) for chart in charts for p in chart.panels for series in p.series]


def test_it_has_a_title_a_note_and_names_on_its_axes(charts):
    for chart in charts:
        assert chart.title
        assert chart.note.endswith(".")
        assert 1 <= chart.columns <= 3
        for panel in chart.panels:
            assert panel.x.label
            assert panel.y.label
            assert len(chart.panels) == 1 or panel.title


def test_it_draws_something_in_every_panel_and_only_numbers(charts):
    assert all(chart.panels for chart in charts)
    assert all(panel.series for chart in charts for panel in chart.panels)
    assert all(len(series.x) for _, series in series_of(charts))
    for row in (row for chart in charts for row in chart.rows()):
        numbers = [v for v in row.values() if v is not None and not isinstance(v, str)]
        assert all(map(math.isfinite, numbers))


def test_log_axes_hold_what_has_a_logarithm(charts):
    for panel, series in series_of(charts):
        assert not panel.x.log or all(x > 0 for x in series.x)
        assert not panel.y.log or all(y > 0 for y in series.y)


def test_whiskers_and_bands_hold_their_values(charts):
    for row in (row for chart in charts for row in chart.rows() if row["low"] is not None):
        value = row["x"] if isinstance(row["y"], str) else row["y"]
        assert row["low"] - 1e-12 <= value <= row["high"] + 1e-12


def test_fractions_stay_fractions(charts):
    for panel, series in series_of(charts):
        assert not panel.y.percent or all(0 <= y <= 1 for y in series.y)
        assert not panel.x.percent or all(0 <= x <= 1 for x in series.x)


def test_only_cells_have_shades_and_only_cells_and_bars_names(charts):
    for _, series in series_of(charts):
        assert bool(series.shade) == (series.mark is Mark.CELLS)
        named = series.mark in (Mark.CELLS, Mark.BARS)
        assert all(isinstance(y, str) == named for y in series.y)


@pytest.mark.parametrize("name", ["with seeds", "hostile names"])
def test_it_is_the_same_each_time_and_of_the_files(maker, name, tmp_path):
    stored = load_study(str(synthetic.write(tmp_path / "s", case(name))))
    made = maker(found(name))
    assert made == maker(found(name))
    assert made == maker(findings(stored))


def test_every_chart_has_something_to_show_of_a_full_study(maker):
    assert maker(found("with seeds"))


@pytest.fixture(scope="module")
def large():
    return findings(charted.again(charted.charted(500)))


def test_it_stays_light(maker, large):
    """What a page has to draw does not grow with the trials beyond some thousand marks."""
    chart = maker(large)
    assert chart
    assert sum(1 for _ in chart.rows()) < 1500


def test_a_number_that_is_none_is_refused_before_any_chart(tmp_path):
    folder = synthetic.write(tmp_path / "s", case("tiny"))
    spoilt = json.loads((folder / "study.json").read_text())
    spoilt["reference"]["val_accuracy"] = float("nan")
    (folder / "study.json").write_text(json.dumps(spoilt))
    with pytest.raises(StudyDataError, match="NaN is no number"):
        load_study(str(folder))
