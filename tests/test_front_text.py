"""The front in a terminal: the numbers of the records, in 80 columns, whatever names are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import synthetic_study as synthetic
from hypothesis import given
from hypothesis import strategies as st

from analysis import units
from analysis.findings import findings
from analysis.front_text import NARROWEST, WIDTH, front_text
from trainables.record import Direction, Objective

ACCURACY = Objective("val_accuracy", unit="fraction")


@pytest.fixture(scope="module")
def found():
    return findings(synthetic.study())


def test_a_line_a_point_with_the_numbers_of_its_record(found):
    said, head, *lines = front_text((p.values for p in found.front), found.y).splitlines()
    assert said == "val, test: accuracy"
    assert head.split()[:4] == ["ratio", "bytes", "val", "test"]
    for line, point in zip(lines, found.front, strict=True):
        size = point.outcome.size
        expected = [f"{size.ratio:.3g}×", f"{size.file_bytes:,}"]
        expected.append(units.value(found.y, point.outcome.metrics["val"]["accuracy"]))
        assert line.split()[:3] == expected


def test_it_says_which_metric_and_which_way_is_better():
    loss = Objective("val_perplexity", Direction.MINIMIZE)
    row = {"ratio": 2.0, "val_perplexity": 1.5, "test_perplexity": 1.6}
    said, *_ = front_text([row], loss).splitlines()
    assert said == "val, test: perplexity (lower is better)"


@given(st.lists(st.text(), min_size=3, max_size=3), st.text(), st.floats(1, 1e4))
def test_no_name_breaks_a_line_or_makes_it_too_wide(names, metric, ratio):
    asked = dict(zip(["method", "init", "adapter"], names, strict=True))
    y = replace(ACCURACY, name=f"val_{metric}")
    text = front_text([{"ratio": ratio, y.name: 0.5, **asked}], y)
    assert len(text.split("\n")) == len(text.splitlines()) == 3
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert text.replace("\n", "").isprintable()


def test_what_no_point_has_or_all_have_is_left_out():
    row = {"ratio": 2.0, "val_accuracy": 0.5, "test_accuracy": float("nan"), "status": "completed"}
    said, table = front_text([row], ACCURACY).split("\n", 1)
    assert said == "val: accuracy"
    assert table.split() == ["ratio", "val", "2×", "50.00%"]
    stopped = front_text([row, {**row, "status": "stopped"}], ACCURACY)
    assert "status" in stopped
    assert stopped.count("\n") == 3


def test_points_of_one_method_are_told_apart_by_its_options():
    rows = [
        {"ratio": 2.0 + bits, "val_accuracy": 0.5, "method": "gptq", "init": "zeros"}
        | {"adapter": "none", "rank": 0, "options": f"bits={bits} group_size=32 mode=asymmetric"}
        for bits in (2, 3)
    ]
    _, head, *lines = front_text(rows, ACCURACY).splitlines()
    assert head.split() == ["ratio", "val", "setting"]
    assert [line.split("  ")[-1] for line in lines] == [
        "gptq bits=2 group_size=32 mode=asymmetric",
        "gptq bits=3 group_size=32 mode=asymmetric",
    ]


def test_points_that_read_alike_all_the_same_have_their_ids():
    row = {"ratio": 2.0, "val_accuracy": 0.5, "method": "rtn", "options": "bits=2"}
    row |= {"init": "loftq", "adapter": "lora", "rank": 4, "rest": "cast"}
    one, other = ({**row, "trial_id": name * 16} for name in "ab")
    _, head, *lines = front_text([one, other], ACCURACY).splitlines()
    assert head.split()[-1] == "trial"
    assert [line.split()[-1] for line in lines] == ["a" * 16, "b" * 16]
    assert all("rtn bits=2 + loftq lora r4; rest cast" in line for line in lines)
    apart = front_text([one, {**other, "options": "bits=3"}], ACCURACY)
    assert "trial" not in apart
    long = [{**one, "options": "x" * 90 + end} for end in "ab"]
    long = [{**point, "trial_id": str(at) * 16} for at, point in enumerate(long)]
    *_, a, b = front_text(long, ACCURACY).splitlines()
    assert a != b
    assert max(len(a), len(b)) <= WIDTH


def test_a_real_front_has_no_two_lines_of_one_setting(found):
    _, _, *lines = front_text((p.values for p in found.front), found.y).splitlines()
    assert len({line.split("  ")[-1] for line in lines}) == len(lines)


def test_names_are_cut_before_figures():
    row = {"ratio": 2.0, "file_bytes": 10**12, "val_accuracy": 0.5, "method": "m" * 300}
    _, head, line = front_text([row], ACCURACY).splitlines()
    assert "1,000,000,000,000" in line
    assert len(line) == WIDTH
    assert len(head.split()[-1]) >= NARROWEST
