"""Reports of studies whose primary metric is not accuracy, either way round."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace

import pytest
import synthetic_study as synthetic
from matplotlib.colors import to_rgba
from pyarrow import fs

from analysis.columns import RELATIVE, front, y_objective
from analysis.findings import findings
from analysis.load import load_study
from analysis.plots import draw
from analysis.report import picture, write_report
from trainables.record import Direction, Objective

PERPLEXITY = Objective("perplexity", Direction.MINIMIZE)
BALANCED = Objective("balanced_accuracy", unit="fraction")
REGRET = Objective("regret", Direction.MINIMIZE, "fraction")


def surprise(accuracy: float) -> float:
    """A perplexity from 20 up, the worse the accuracy the higher."""
    return 20 * math.exp(12 * (1 - accuracy) ** 2 + (1 - accuracy) / 5)


@pytest.fixture(scope="module")
def plain():
    return synthetic.study()


@pytest.fixture(scope="module")
def study(plain):
    return synthetic.turned(plain, PERPLEXITY, surprise)


@pytest.fixture(scope="module")
def balanced(plain):
    return synthetic.turned(plain, BALANCED, lambda a: a)


def report(data, folder):
    write_report(data, fs.LocalFileSystem(), str(folder), formats=("csv", "md"))
    lines = list(csv.DictReader((folder / "front.csv").read_text().splitlines()))
    return lines, (folder / "summary.md").read_text()


def ids(rows):
    return [row.record.trial_id for row in rows]


def test_the_front_is_that_of_the_same_study_told_the_other_way(plain, study):
    assert ids(front(study.rows, y=y_objective(study))) == ids(front(plain.rows))


def test_a_minimised_metric_is_the_negated_one_in_every_finding(balanced):
    other = synthetic.turned(synthetic.study(), REGRET, lambda a: -a)
    one, two = findings(balanced), findings(other)
    for name in ("knee", "chosen", "certified", "failed_first"):
        found = [getattr(f, name) for f in (one, two)]
        assert [p and p.row.record.trial_id for p in found][0] == (
            found[1] and found[1].row.record.trial_id
        ), name
    assert one.certified
    assert two.skipped == one.skipped == 0
    for a, b in zip(one.front, two.front, strict=True):
        assert a.number("drop") == pytest.approx(b.number("drop"))
        assert a.number("drop_upper") == pytest.approx(b.number("drop_upper"))


def test_the_table_holds_the_metric_in_its_own_units(study, tmp_path):
    lines, _ = report(study, tmp_path)
    for line, row in zip(lines, front(study.rows, y=y_objective(study)), strict=True):
        check = study.verifications[row.record.trial_id]
        assert float(line["val_perplexity"]) == row.record.outcome.metrics["val"]["perplexity"]
        assert float(line["test_perplexity"]) == check.metrics["perplexity"]
        drop = check.drops["dense"]
        assert float(line["drop"]) == drop.absolute.value
        assert float(line["drop_upper"]) == drop.absolute.high
        assert float(line[RELATIVE]) == drop.relative.high
        assert "accuracy" not in "".join(line)


def test_columns_of_fractions_are_those_of_accuracy(plain, balanced, tmp_path):
    names = [list(report(s, tmp_path / n)[0][0]) for n, s in (("a", plain), ("b", balanced))]
    assert names[1] == [name.replace("_accuracy", "_balanced_accuracy") for name in names[0]]


def test_a_perplexity_is_never_called_a_percentage(study, tmp_path):
    lines, text = report(study, tmp_path)
    values = [float(line[k]) for line in lines for k in ("val_perplexity", "test_perplexity")]
    for value in values:
        assert f"{value:.4g}" in text
        assert not re.search(rf"{re.escape(f'{value:.4g}')}\s*(%|pp)", text)
        assert f"{100 * value:.2f}" not in text
    assert " pp" not in text
    assert "accuracy" not in text
    assert "within 1% of dense's perplexity" in text
    assert "test perplexity of the point minus that of dense" in text
    assert "bound / dense" in text


def test_balanced_accuracy_is_one(balanced, tmp_path):
    lines, text = report(balanced, tmp_path)
    assert f"{100 * float(lines[0]['test_balanced_accuracy']):.2f}%" in text
    assert "test balanced accuracy of dense minus that of the point" in text
    assert "within 1 point" in text
    assert "bound / dense" not in text
    assert "Intervals of drops: paired bootstrap." in text


def test_certified_is_what_is_within_a_share_of_dense(study):
    found = findings(study)
    dense = found.baselines["dense"].number("test_perplexity")
    assert found.certified
    assert found.certified.number("drop_upper") <= 0.01 * dense
    assert found.failed_first
    assert found.failed_first.number("drop_upper") > 0.01 * dense
    assert found.failed_first.number("drop_upper") > 0.01
    validated = found.baselines["dense"].number("val_perplexity")
    assert found.chosen.number("val_perplexity") <= 1.01 * validated


def test_without_drops_nothing_is_certified(study, tmp_path):
    checks = {k: replace(v, drops={}) for k, v in study.verifications.items()}
    bare = replace(study, verifications=checks)
    found = findings(bare)
    assert found.certified is None
    assert found.skipped == len(found.front)
    assert "not compared on test" in report(bare, tmp_path)[1]


def test_pairs_of_right_and_wrong_say_nothing_of_another_metric(plain, study):
    pairs = {k: v.paired for k, v in plain.verifications.items()}
    checks = {k: replace(v, paired=pairs[k], drops={}) for k, v in study.verifications.items()}
    assert findings(replace(study, verifications=checks)).certified is None


@pytest.mark.parametrize("spread", ["wide", "narrow"])
def test_better_is_up(plain, spread):
    of = surprise if spread == "wide" else (lambda a: 20 + (1 - a))
    found = findings(synthetic.turned(plain, PERPLEXITY, of))
    axes = draw(picture(found)).axes[0]
    bottom, top = axes.get_ylim()
    assert bottom > top
    shown = [p.number("val_perplexity") for p in found.front]
    assert top < min(shown) <= max(shown) < bottom
    assert axes.get_ylabel() == "perplexity (lower is better)"
    assert axes.get_yscale() == ("log" if spread == "wide" else "linear")
    labels = [t.get_text() for t in axes.get_yticklabels() if t.get_text()]
    assert len(labels) >= 3
    assert not any("%" in label for label in labels)


def test_the_band_and_the_whiskers_are_on_the_worse_side(study):
    found = findings(study)
    axes = draw(picture(found)).axes[0]
    dense = found.baselines["dense"].number("test_perplexity")
    (band,) = [p for p in axes.patches if p.get_label() == "within 1% of dense (test)"]
    low, high = band.get_y(), band.get_y() + band.get_height()
    assert sorted((low, high)) == pytest.approx([dense, 1.01 * dense])
    assert band.get_facecolor()[:3] == to_rgba("#0072B2")[:3]
    ends = sorted(y for c in axes.collections for p in _vertical(c) for y in p)
    for point in found.front:
        test, drop = point.number("test_perplexity"), point.dense
        for end in (test - drop.drop + drop.upper, test - drop.drop + drop.lower):
            assert min(abs(end - other) for other in ends) < 1e-9


def _vertical(collection):
    paths = collection.get_paths()
    return [p.vertices[:, 1] for p in paths if len(p.vertices) == 2 and p.vertices[0, 0] > 0]


def test_an_old_study_without_units_is_read_by_its_names(plain, tmp_path):
    objective = y_objective(plain)
    assert objective == Objective("val_accuracy", unit="fraction")
    assert y_objective(plain, "val_perplexity").direction is Direction.MINIMIZE
    assert not y_objective(plain, "val_mcc").is_fraction
    assert y_objective(plain, "val_f1").is_fraction
    loaded = load_study(str(synthetic.write(tmp_path / "s", plain)))
    assert y_objective(loaded) == objective


def test_what_a_study_says_of_its_metric_counts(study, tmp_path):
    odd = Objective("val_odd_loss", Direction.MAXIMIZE, "nats")
    said = {"name": odd.name, "direction": "maximize", "unit": "nats"}
    assert y_objective(replace(study, info={**study.info, "objectives": [said]})) == odd
    loaded = load_study(str(synthetic.write(tmp_path / "s", study)))
    assert loaded.verifications == study.verifications
    assert y_objective(loaded) == Objective("val_perplexity", Direction.MINIMIZE)
