"""Fronts over three objectives: who is on them, and where they are drawn."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import charted_study as charted
import numpy as np
import pytest
from pyarrow import fs

from analysis.charts.chart import Mark
from analysis.charts.trade import MOST_OTHERS, three_objectives
from analysis.load import StudyData, StudyDataError
from analysis.objectives import trade
from analysis.report import write_report

NAMES = ("accuracy", "ratio", "macs")


def measured(trials: int = 80) -> StudyData:
    """Trials that differ in their multiply-adds, too."""
    study, rng = charted.charted(trials), np.random.default_rng(5)
    rows = []
    for row in study.rows:
        outcome = replace(row.record.outcome, macs=int(rng.integers(1_000, 100_000)))
        rows.append(replace(row, record=replace(row.record, outcome=outcome)))
    return replace(study, rows=tuple(rows))


@pytest.fixture(scope="module")
def study() -> StudyData:
    return measured()


def values(row) -> tuple[float, float, float]:
    outcome = row.record.outcome
    return outcome.metrics["val"]["accuracy"], outcome.size.ratio, float(outcome.macs)


def beats(a, b) -> bool:
    """More accuracy, more ratio, fewer multiply-adds."""
    better = (a[0] >= b[0], a[1] >= b[1], a[2] <= b[2])
    return all(better) and a != b


def test_members_are_those_that_no_trial_beats_in_all_three(study):
    rows = [r for r in study.rows if r.role == "search" and r.record.outcome.sha256]
    best = {
        row.record.trial_id
        for row in rows
        if not any(beats(values(other), values(row)) for other in rows)
    }
    members = list(trade(study, NAMES).members())
    assert {member["trial_id"] for member in members} == best
    by_id = {row.record.trial_id: row for row in rows}
    for member in members:
        told = member["val_accuracy"], member["ratio"], member["macs"]
        assert told == values(by_id[member["trial_id"]])
    accuracies = [member["val_accuracy"] for member in members]
    assert accuracies == sorted(accuracies, reverse=True)


def test_it_holds_the_fronts_of_each_pair(study):
    found = trade(study, NAMES)
    members = list(found.members())
    for a, b in found.pairs:
        name = f"{found.axes[a].name}, {found.axes[b].name}"
        # Of points that are level in the two the third decides, so that not all stay.
        best = {tuple(found.values[i, [a, b]]) for i in np.flatnonzero(found.front_of(a, b))}
        told = {
            (m[found.axes[a].name], m[found.axes[b].name])
            for m in members
            if name in m["on_fronts_of"].split("; ")
        }
        assert told == best


def test_each_pair_has_a_panel_with_every_member(study):
    found = trade(study, NAMES)
    chart = three_objectives(found)
    assert [panel.title for panel in chart.panels] == [
        "accuracy against ratio",
        "accuracy against macs",
        "ratio against macs",
    ]
    for panel, (a, b) in zip(chart.panels, found.pairs, strict=True):
        drawn = {
            (x, y)
            for series in panel.series
            if series.mark is Mark.POINTS and not series.muted
            for x, y in zip(series.x, series.y, strict=True)
        }
        assert drawn == {tuple(found.values[i, [b, a]]) for i in np.flatnonzero(found.front)}
        # The line of a pair goes through its points, and never back.
        steps = [series for series in panel.series if series.mark is Mark.STEP]
        for step in steps:
            assert set(zip(step.x, step.y, strict=True)) <= drawn
            for values_of in (step.x, step.y):
                assert list(values_of) in (sorted(values_of), sorted(values_of, reverse=True))
        muted = [len(series.x) for series in panel.series if series.muted]
        assert sum(muted) == (~found.front).sum()


def test_of_many_dominated_points_the_nearest_are_drawn_and_the_rest_counted():
    found = trade(measured(900), NAMES)
    chart = three_objectives(found)
    dominated = next(series for series in chart.panels[0].series if series.muted)
    assert len(dominated.x) == MOST_OTHERS
    left = int((~found.front).sum()) - MOST_OTHERS
    assert f"Not drawn: {left:,} further from the front." in chart.note


def test_the_report_has_the_chart_and_the_members(study, tmp_path):
    write_report(study, fs.LocalFileSystem(), str(tmp_path), formats=("csv",), objectives=NAMES)
    told = list(csv.DictReader(Path(tmp_path / "objectives.csv").read_text().splitlines()))
    assert [row["trial_id"] for row in told] == [
        member["trial_id"] for member in trade(study, NAMES).members()
    ]
    assert (tmp_path / "charts/objectives.csv").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("accuracy", "ratio"), "expected 3 objectives"),
        (("accuracy", "val_bleu", "macs"), "val_bleu: no such objective"),
        (("accuracy", "val_accuracy", "macs"), "val_accuracy: named twice"),
        (("accuracy", "ratio", "latency_ms"), "no trial of charted has latency_ms"),
    ],
)
def test_names_that_are_wrong_are_refused(study, names, message):
    with pytest.raises(StudyDataError, match=message):
        trade(study, names)
