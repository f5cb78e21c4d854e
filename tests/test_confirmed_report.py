"""A front that was decided over seeds, in report and MLflow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import synthetic_study as synthetic

from analysis import summary
from analysis.charts.tables import as_csv
from analysis.columns import AXES, front, y_objective
from analysis.figure_files import png
from analysis.findings import findings
from analysis.frozen import declared
from analysis.load import Row, StudyData, StudyDataError
from analysis.plots import draw
from analysis.report import picture
from analysis.stats import mean_interval
from study.events import Member
from trainables.record import to_json


def _again(row: Row, seed: int, shift: int) -> Row:
    """The same setting with another seed, so many validation examples better."""
    outcome = row.record.outcome
    accuracy = outcome.metrics["val"]["accuracy"] + shift / synthetic.N_VAL
    record = synthetic.record(replace(row.record.trial, seed=seed), outcome.size, accuracy)
    return Row(record, "confirm", seed)


@pytest.fixture(scope="module")
def confirmed() -> StudyData:
    """A study whose front lost its second point over seeds; all else was run three times."""
    study = synthetic.study()
    rows, members, checks = list(study.rows), [], dict(study.verifications)
    for i, row in enumerate(front(study.rows)):
        runs = [row, _again(row, 900 + i, -2), _again(row, 950 + i, 1)]
        rows += runs[1:]
        if i == 1:
            continue
        ids = tuple(r.record.trial_id for r in runs)
        values = [r.record.outcome.metrics["val"]["accuracy"] for r in runs]
        at = mean_interval(values)
        members.append(Member(ids[2], ids, at.value, at.lower, at.upper, 0.8))
        for drop, run in enumerate(runs):
            checks[run.record.trial_id] = synthetic.verification(run.record, 5 + drop)
    info = {**study.info, "front": to_json(members)}
    return StudyData(study.name, info, tuple(rows), checks)


@pytest.fixture(scope="module")
def found(confirmed):
    return findings(confirmed)


def test_the_front_is_the_one_that_was_decided(confirmed, found):
    stated = [member["trial_id"] for member in confirmed.info["front"]]
    assert [p.values["trial_id"] for p in found.front] == stated
    computed = findings(replace(confirmed, info={**confirmed.info, "front": []}))
    assert len(computed.front) == len(found.front) + 1


def test_runs_again_are_neither_baselines_nor_trials(confirmed, found):
    plain = findings(synthetic.study())
    assert set(found.baselines) == set(plain.baselines)
    shown = {p.values["trial_id"] for p in (*found.front, *found.others)}
    members = {i for member in confirmed.info["front"] for i in member["replicates"]}
    assert not {p.values["trial_id"] for p in found.others} & members
    again = {r.record.trial_id for r in confirmed.rows if r.role == "confirm"}
    assert shown & again == {p.values["trial_id"] for p in found.front}
    for text in (summary.write(found), summary.write(plain)):
        assert "60 trials: " in text
    assert "60 trials" in picture(found).subtitle


def test_a_point_has_the_mean_of_its_scores_on_test(confirmed, found):
    for point, member in zip(found.front, confirmed.info["front"], strict=True):
        scores = [confirmed.verifications[i].metrics["accuracy"] for i in member["replicates"]]
        at = mean_interval(scores)
        assert point.number("test_mean") == pytest.approx(sum(scores) / 3)
        assert (point.number("test_low"), point.number("test_high")) == (at.lower, at.upper)
        assert point.score("val_accuracy") == member["mean"]
        assert point.score("test_accuracy") == point.number("test_accuracy")
    written = as_csv(point.values for point in found.front).decode()
    assert "val_mean,val_low,val_high,probability,test_mean" in written


def test_the_words_say_what_varies(found):
    text = summary.write(found)
    assert "what adapters start at" in text
    assert "do not vary the dense training, the splits" in text
    assert "one seed for the dense training" not in text
    assert "| seeds | val mean |" in text


def test_the_picture_has_a_band_for_the_seeds_of_each_point(found):
    pale = [c for c in draw(picture(found)).axes[0].collections if c.get_alpha() == 0.22]
    assert len(pale) == len(found.front)
    ends = sorted((p.number("val_low"), p.number("val_high")) for p in found.front)
    drawn = sorted(tuple(c.get_segments()[0][:, 1]) for c in pale)
    assert drawn == [pytest.approx(pair) for pair in ends]
    assert png(draw(picture(found)))


def test_over_other_axes_the_records_decide(confirmed):
    assert declared(confirmed, "macs", y_objective(confirmed)) is None
    members = {p.values["trial_id"] for p in findings(confirmed, x="file_bytes").front}
    assert members == {r.record.trial_id for r in front(confirmed.rows, "file_bytes")}


def test_a_member_without_a_record_is_refused(confirmed):
    rows = tuple(r for r in confirmed.rows if r.role != "confirm")
    with pytest.raises(StudyDataError, match="no record of"):
        findings(replace(confirmed, rows=rows))


def test_a_front_over_three_objectives_keeps_what_is_best_in_the_third():
    study = synthetic.study()
    plain = front(study.rows)
    dominated = next(
        r for r in study.rows
        if r.role == "search" and r.record.outcome.sha256 and r not in plain
    )  # fmt: skip
    least = replace(dominated.record, outcome=replace(dominated.record.outcome, macs=1))
    rows = tuple(replace(r, record=least) if r is dominated else r for r in study.rows)
    third = {"name": "macs", "direction": "minimize", "unit": ""}
    info = {**study.info, "objectives": [*study.info["objectives"], third]}
    found = findings(replace(study, rows=rows, info=info))
    assert least.trial_id in {p.values["trial_id"] for p in found.front}
    members = front(rows, also=[AXES["macs"]])
    assert {r.record.trial_id for r in members} == {p.values["trial_id"] for p in found.front}
    xs, _ = draw(picture(found)).axes[0].lines[0].get_data()
    assert len(xs) == len(plain)
