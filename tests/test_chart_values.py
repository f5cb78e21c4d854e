"""What single charts draw is what the records say."""

from __future__ import annotations

from dataclasses import replace

import charted_study as charted
import numpy as np
import pytest
import synthetic_study as synthetic

from analysis.charts.attainment import attainment_over_seeds
from analysis.charts.by_rank import metric_by_rank
from analysis.charts.chart import Mark
from analysis.charts.curves import MOST_LINES, learning_curves
from analysis.charts.hypervolume import hypervolume_by_effort
from analysis.charts.importance import NOBODY, what_mattered
from analysis.charts.map import WITHOUT, method_by_init
from analysis.design import descriptive
from analysis.findings import findings
from analysis.fronts import hypervolume
from analysis.load import StudyData
from trainables.record import Direction, Objective, Status


@pytest.fixture(scope="module")
def study() -> StudyData:
    return charted.charted(200)


@pytest.fixture(scope="module")
def found(study):
    return findings(study)


def accuracy(row) -> float | None:
    return row.record.outcome.metrics.get("val", {}).get("accuracy")


def searched(study):
    return [r for r in study.rows if r.role == "search" and accuracy(r) is not None]


def cell(row) -> tuple[str, str, int]:
    rule = row.record.trial.layers[0]
    return rule.methods[0].name, rule.init.name, rule.rank


def test_by_rank_each_mark_is_the_best_of_its_records(study, found):
    chart = metric_by_rank(found)
    best: dict[tuple[str, str, int], float] = {}
    for row in searched(study):
        if row.record.trial.layers[0].rank:
            best[cell(row)] = max(accuracy(row), best.get(cell(row), 0.0))
    drawn = {
        (panel.title, series.name, int(x)): y
        for panel in chart.panels
        for series in panel.series
        for x, y in zip(series.x, series.y, strict=True)
        if series.name in charted.INITS
    }
    assert drawn == best
    levels = [s for p in chart.panels for s in p.series if s.name == "dense"]
    dense = next(accuracy(row) for row in study.rows if row.role == "dense")
    assert {y for series in levels for y in series.y} == {dense}


def test_by_rank_has_whiskers_where_a_setting_ran_with_several_seeds(study):
    again = charted.again(study)
    plain, seeded = metric_by_rank(findings(study)), metric_by_rank(findings(again))
    assert all(row["low"] is None for row in plain.rows())
    whiskers = [row for row in seeded.rows() if row["low"] is not None]
    assert whiskers
    for row in whiskers:
        assert row["text"].endswith("mean of 4 seeds")
        assert (row["low"] + row["high"]) / 2 == pytest.approx(row["y"]) or row["high"] == 1


def test_by_rank_is_best_from_below_where_the_metric_is_to_be_small(study):
    loss = Objective("perplexity", Direction.MINIMIZE)
    chart = metric_by_rank(findings(synthetic.turned(study, loss, lambda a: 1 / a)))
    same = metric_by_rank(findings(study))
    assert chart.panels[0].y.reversed
    values = [row["y"] for row in same.rows()]
    assert [1 / row["y"] for row in chart.rows()] == pytest.approx(values)


def test_few_curves_are_drawn_as_they_were_reported():
    study = charted.charted(40)
    chart = learning_curves(findings(study))
    told = {
        f"trial {row.number}": {
            r.epochs_done: r.metrics["accuracy"] for r in row.record.outcome.curve
        }
        for row in searched(study)
        if len(row.record.outcome.curve) > 1
    }
    drawn: dict[str, dict[int, float]] = {}
    for row in chart.rows():
        drawn.setdefault(row["text"].split(":")[0], {})[int(row["x"])] = row["y"]
    assert drawn == told


def test_many_curves_are_bands_that_hold_the_middle_of_them(study, found):
    chart = learning_curves(findings(charted.charted(280)))
    crowded = [p for p in chart.panels if any(s.mark is Mark.BAND for s in p.series)]
    assert crowded
    for panel in crowded:
        wide, narrow = (s for s in panel.series if s.mark is Mark.BAND)
        for i in range(len(wide.x)):
            assert wide.low[i] <= narrow.low[i] <= wide.y[i] <= narrow.high[i] <= wide.high[i]
        assert sum(s.muted and s.mark is Mark.LINE for s in panel.series) == 1 <= MOST_LINES
    members = sum(len(p.row.record.outcome.curve) > 1 for p in found.front)
    drawn = [s for p in learning_curves(found).panels for s in p.series if not s.muted]
    assert len(drawn) == members


def losses(rows) -> np.ndarray:
    pairs = [
        (-accuracy(r), -r.record.outcome.size.log2_ratio) for r in rows if r.record.outcome.sha256
    ]
    return np.array(pairs).reshape(-1, 2)


def test_hypervolume_at_every_step_is_that_of_the_trials_so_far(study, found):
    chart = hypervolume_by_effort(found)
    by_trials, by_cost = (panel.series[0] for panel in chart.panels)
    rows = sorted((r for r in study.rows if r.role == "search"), key=lambda r: r.number)
    for count, volume in zip(by_trials.x, by_trials.y, strict=True):
        so_far = [r for r in rows[: int(count)] if accuracy(r) is not None]
        assert volume == pytest.approx(hypervolume(losses(so_far), (-0.1, 0.0)))
    assert by_trials.x[-1] == len(rows)
    assert by_cost.y == by_trials.y
    assert by_cost.x[-1] == pytest.approx(sum(r.record.outcome.seconds for r in rows))
    assert list(by_trials.y) == sorted(by_trials.y)
    assert "the study's reference" in chart.note


def test_hypervolume_without_a_reference_says_what_it_took(study):
    info = {k: v for k, v in study.info.items() if k != "reference"}
    chart = hypervolume_by_effort(findings(replace(study, info=info)))
    assert "not to be compared" in chart.note


def test_map_cells_are_medians_and_counts_and_empty_ones_empty(study, found):
    chart = method_by_init(found)
    middle, count = (panel.series[0] for panel in chart.panels)
    groups: dict[tuple[str, str], list[float]] = {}
    for row in searched(study):
        method, init, rank = cell(row)
        groups.setdefault((method, init if rank else WITHOUT), []).append(accuracy(row))
    pairs = list(zip(middle.y, middle.x, strict=True))
    assert len(pairs) == len({m for m, _ in groups}) * len({i for _, i in groups})
    for pair, shade, trials in zip(pairs, middle.shade, count.shade, strict=True):
        assert shade == (float(np.median(groups[pair])) if pair in groups else None)
        assert trials == (len(groups[pair]) if pair in groups else None)


def test_a_pair_that_was_never_tried_is_an_empty_cell(study):
    kept = [r for r in study.rows if r.role != "search" or cell(r)[:2] != ("svd", "pissa")]
    chart = method_by_init(findings(replace(study, rows=tuple(kept))))
    for panel in chart.panels:
        cells = panel.series[0]
        at = list(zip(cells.y, cells.x, strict=True)).index(("svd", "pissa"))
        assert cells.shade[at] is None
        assert cells.texts[at] == "svd, pissa: never tried"


def test_attainment_is_between_the_seeds_and_needs_several(study):
    assert attainment_over_seeds(findings(study)) is None
    still = attainment_over_seeds(findings(charted.again(study, noise=0.0)))
    band, line = still.panels[0].series
    assert band.low == band.high
    front = {accuracy(point.row) for point in findings(study).front}
    assert set(line.y) == front
    moved = attainment_over_seeds(findings(charted.again(study)))
    band = moved.panels[0].series[0]
    assert any(high > low for low, high in zip(band.low, band.high, strict=True))
    assert "Of 4 seeds" in moved.note


def test_what_mattered_is_the_knob_that_the_synthetic_trials_are_made_by(found):
    chart = what_mattered(found)
    firsts = {panel.title.split(":")[0]: panel.series[0].y[0] for panel in chart.panels}
    # int1 has the fewest bits of them all, and nothing else makes a file as small.
    assert firsts["best tenth by ratio"] == "method: int1"
    for panel in chart.panels:
        assert sum(sum(series.x) for series in panel.series) <= 1 + 1e-9


GRID = {
    "method": {"domain": {"values": ["rtn", "svd"]}},
    "rtn.bits": {"domain": {"values": [2, 3]}, "when": {"method": ["rtn"]}},
}
DESIGNS = {
    "tpe": ({"tpe": {"startup": 4}}, 3, "searcher tpe chose"),
    "unknown": (None, 3, "does not say"),
    "random": ("random", 3, "neither balanced nor quasi-random"),
    "quasi_random": ({"quasi_random": {}}, 3, None),
    "whole grid": ("grid", 3, None),
    "part of a grid": ("grid", 2, "not run to its end"),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_only_trials_that_were_laid_out_evenly_are_more_than_descriptive(name):
    searcher, trials, reason = DESIGNS[name]
    study = charted.charted(trials, searcher=searcher, space={"params": GRID})
    # Some synthetic trials are stopped early or fail: here they all are as a baseline is.
    done = study.rows[0].record
    rows = [replace(r, record=done) if r.role == "search" else r for r in study.rows]
    study = replace(study, rows=tuple(rows))
    said = descriptive(study)
    assert said is None if reason is None else reason in said


def test_early_stops_make_it_descriptive(study):
    study = replace(study, info={**study.info, "config": {"searcher": "quasi_random"}})
    assert "stopped early" in descriptive(study)
    assert "stopped early" in what_mattered(findings(study)).note
    assert descriptive(charted.of_status(study, Status.COMPLETED, Status.FAILED)) is None


def shuffled(study, seed: int):
    """The study with the outcomes of its trials given to others: noise."""
    searched = [row for row in study.rows if row.role == "search"]
    order = np.random.default_rng(seed).permutation(len(searched))
    outcomes = [searched[i].record.outcome for i in order]
    mixed = [
        replace(row, record=replace(row.record, outcome=outcome))
        for row, outcome in zip(searched, outcomes, strict=True)
    ]
    return replace(study, rows=(*(r for r in study.rows if r.role != "search"), *mixed))


def test_where_no_knob_is_told_from_chance_no_shares_are_given():
    study, sure, silent = charted.charted(120), 0, 0
    for seed in range(10):
        chart = what_mattered(findings(shuffled(study, seed)))
        assert "Failed trials are left out." in chart.note
        named = chart.note.partition("No knob is told from chance for: ")[2]
        silent += len(named.removesuffix(".").split(", ")) if named else 0
        for panel in chart.panels:
            if panel.title == NOBODY:
                (series,) = panel.series
                assert list(series.x) == [0.0]
                assert len(chart.panels) == 1
            else:
                assert "above chance" in [series.name for series in panel.series]
                sure += 1
    assert silent >= 0.8 * (silent + sure) > 0
