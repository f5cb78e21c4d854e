"""What a report certifies: the study's own front alone, in an order that test has no part in."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic_study as synthetic

from analysis.columns import front
from analysis.findings import findings
from analysis.load import Row, StudyData
from analysis.sequence import BY_CHANGES, BY_SIZE, Entry, sequence
from analysis.stats import drop_upper
from analysis.summary import answers, headline, write
from trainables.record import Choice, Paired

MARGIN = 0.01


def made(bits: float, accuracy: float, seed: int, **more) -> Row:
    asked = synthetic.trial(Choice("int1"), seed=seed)
    return Row(synthetic.record(asked, synthetic.size(bits, 2), accuracy, **more), number=seed)


def study_of(rows, changes=None) -> StudyData:
    """A study of these points; ``changes`` of validation, by point."""
    checks = {}
    for i, (row, drop) in enumerate(rows):
        of = {"on_validation": {"dense": Paired(359, changes[i], 0)}} if changes else {}
        check = synthetic.verification(row.record, drop, 1, **of)
        checks[check.trial_id] = check
    rows = [*synthetic.baselines(), *(row for row, _ in rows)]
    return StudyData("x", synthetic.info(), tuple(rows), checks)


@pytest.fixture
def untested_between():
    """Two tested points of the study's front; over multiply-adds one of them fell out."""
    safe, doubtful = made(8, 0.983, 1, macs=9000), made(4, 0.981, 2, macs=100)
    never = made(5, 0.970, 3, macs=50)
    study = study_of([(safe, 30), (doubtful, 0)])
    return replace(study, rows=(*study.rows, never))


def test_the_front_of_other_axes_certifies_nothing(untested_between):
    own, other = findings(untested_between), findings(untested_between, "macs")
    assert own.certified is None
    assert own.failed_first is not None
    assert any(p.dense and p.dense.bound <= MARGIN for p in other.front)
    assert other.certified is None
    text = write(other)
    assert "Not certified over these axes" in headline(other)
    assert "chosen before test was read" not in text
    assert "chosen before test was read" in write(own)
    assert "no model is certified within 1 point" in headline(other)


@pytest.mark.parametrize("x", ["layer_ratio", "nominal_ratio", "macs", "file_bytes"])
def test_other_axes_quote_the_certificate_of_the_study(x):
    study = study_of([(made(8, 0.983, 1), 0), (made(4, 0.980, 2), 0), (made(2, 0.5, 3), 90)])
    own, other = findings(study), findings(study, x)
    assert own.certified
    assert f"{own.certified.values['artifact']}" in headline(other)
    assert "saved files" in headline(other)
    assert other.certified is None
    assert "chosen before test was read" not in write(other)


def test_which_ratio_a_figure_is(untested_between):
    study = study_of([(made(8, 0.983, 1), 0), (made(4, 0.980, 2), 0)])
    assert "× (compressed layers only)" in " ".join(answers(findings(study, "layer_ratio")))
    assert "× (nominal)" in " ".join(answers(findings(study, "nominal_ratio")))
    assert " macs" in " ".join(answers(findings(study, "macs")))


def test_a_metric_without_a_paired_bound_is_said_to_have_none():
    study = study_of([(made(8, 0.983, 1), 0)])
    rows = []
    for row in study.rows:
        outcome = row.record.outcome
        metrics = {"val": {**outcome.metrics["val"], "loss": 0.5}}
        rows.append(replace(row, record=replace(
            row.record, outcome=replace(outcome, metrics=metrics))))  # fmt: skip
    text = headline(findings(replace(study, rows=tuple(rows)), y="val_loss"))
    assert "loss has no paired bound" in text
    assert "nothing was tested" not in text
    assert "study's own certificate" in text


def test_axes_that_the_study_traded_certify_whatever_is_drawn():
    """A third objective is the study's own axis, too: the same points pass, in the same order."""
    rows = [(made(8, 0.986, 1), 0), (made(6, 0.983, 2), 40), (made(4, 0.980, 3), 0)]
    study = study_of(rows, changes=[3, 20, 4])
    names = [*study.info["objectives"], {"name": "macs", "direction": "minimize"}]
    members = [{"trial_id": r.record.trial_id, "replicates": []} for r in front(study.rows)]
    study = replace(study, info={**study.info, "objectives": names, "front": members})
    one, two = findings(study), findings(study, "macs")
    assert one.own is two.own is None
    assert [p.row for p in one.tested.certified] == [p.row for p in two.tested.certified]
    assert [p.row for p in one.tested.certified] == [rows[0][0], rows[2][0]]


def test_a_doubtful_model_does_not_stand_before_sure_ones():
    rows = [(made(8, 0.986, 1), 0), (made(6, 0.983, 2), 25), (made(4, 0.980, 3), 1)]
    old = findings(study_of(rows))
    assert old.tested.order == BY_SIZE
    assert old.certified is not None
    assert old.certified.row == rows[0][0]
    assert [p.row for p in old.tested.after] == [rows[2][0]]
    new = findings(study_of(rows, changes=[9, 12, 5]))
    assert new.tested.order == BY_CHANGES
    assert [p.row for p in new.tested.certified] == [rows[2][0], rows[0][0]]
    assert new.certified is not None
    assert new.certified.row == rows[2][0]  # the smallest of those that passed, not the last
    assert new.failed_first is not None
    assert new.failed_first.row == rows[1][0]
    assert not new.tested.after


def test_what_comes_after_the_failure_is_named_and_not_certified():
    rows = [(made(8, 0.986, 1), 0), (made(6, 0.983, 2), 25), (made(4, 0.980, 3), 1)]
    text = write(findings(study_of(rows)))
    after = findings(study_of(rows)).tested.after[0]
    assert "not certified: after a failure in the order" in text
    line = next(line for line in text.splitlines() if "after a failure in the order" in line)
    assert f"{after.number('ratio'):.3g}×" in line
    assert BY_SIZE in text
    again = write(findings(study_of(rows, changes=[9, 12, 5])))
    assert "after a failure in the order" not in again
    assert BY_CHANGES in again


def test_points_of_which_some_were_not_compared_keep_the_older_order():
    rows = [(made(8, 0.986, 1), 0), (made(6, 0.983, 2), 25)]
    study = study_of(rows, changes=[9, 2])
    checks = dict(study.verifications)
    first = rows[0][0].record.trial_id
    checks[first] = replace(checks[first], on_validation={})
    assert findings(replace(study, verifications=checks)).tested.order == BY_SIZE


@functools.cache
def bound(n: int, b: int, c: int) -> float:
    return drop_upper(Paired(n, b, c))


@pytest.mark.parametrize("spread", [False, True], ids=["alike", "apart"])
def test_the_error_over_a_front_is_that_of_one_bound(spread):
    """Ten points that all drop by just the margin: some false certificate in at most 5%."""
    rng = np.random.default_rng(3)
    lost = np.geomspace(0.011, 0.05, 10) if spread else np.full(10, 0.02)
    families, false = 2000, 0
    blank = synthetic.verification(made(4, 0.98, 0).record, 0)
    for _ in range(families):
        entries = []
        for i, b in enumerate(lost):
            chances = [b, b - MARGIN, 1 - 2 * b + MARGIN]
            seen, drawn = rng.multinomial(359, chances), rng.multinomial(719, chances)
            pair = Paired(359, int(seen[0]), int(seen[1]))
            check = replace(blank, on_validation={"dense": pair})
            entries.append(Entry(i, 1.0 + i, check, bound(719, int(drawn[0]), int(drawn[1]))))
        false += bool(sequence(entries, MARGIN).certified)
    # Three standard errors above 0.05; each alone would give more than 0.3.
    assert false / families <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / families)
