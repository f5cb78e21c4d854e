"""Published points in a report: where they are drawn, what is said of them, who asks for them."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic_study as synthetic
from pyarrow import fs

from analysis.figure_files import png
from analysis.findings import findings
from analysis.load import StudyDataError, load_study
from analysis.plots import draw
from analysis.published import SYSTEMS, Placed, parse_points, published_points
from analysis.report import picture, write_report
from compression.registry import errors_of
from study.config import load_config
from trainables.record import to_json

ROOT = Path(__file__).parents[1]
POINTS = published_points()


def of(system):
    return [p for p in POINTS if p.system == system]


def alike(axis="nominal_ratio"):
    """A study of what 000 is of, and its findings on an axis."""
    data = synthetic.study()
    subject = to_json(of("lora_compression")[0].subject)
    data = replace(data, info={**data.info, "subject": subject})
    return data, findings(data, axis, published=("lora_compression", "svd_lora", "pc_lora"))


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def drawn(axes):
    """Published markers on axes, (x, y)."""
    lines = [line for line in axes.lines if line.get_marker() in ("^", "v", "<", ">", "p", "h")]
    return {pair for line in lines for pair in zip(*line.get_data(), strict=True)}


def test_comparable_points_are_on_the_front_and_the_others_on_their_own_axes():
    _, found = alike()
    figure = draw(picture(found))
    front, *below = figure.axes
    ours = {(p.ratio, p.value) for p in of("lora_compression")}
    assert drawn(front) == ours
    assert sum(text.startswith("published: LoRA-Compression") for text in labels(front)) == 5
    low, high = front.get_xlim()
    assert all(low < x < high for x, _ in ours)
    assert [axes.get_ylabel() for axes in below] == ["accuracy", "BLEU", "chrF"]
    for axes in below:
        assert "not comparable: other data" in axes.get_title(loc="left").replace("\n", " ")
        assert "linear_values" in axes.get_xlabel()
        assert not drawn(axes) & ours


def test_on_another_axis_none_is_on_the_front():
    plain = draw(picture(findings(alike()[0])))
    figure = draw(picture(alike("ratio")[1]))
    assert len(plain.axes) == 1
    front, first, *_ = figure.axes
    assert (front.get_xlim(), front.get_ylim()) == (
        plain.axes[0].get_xlim(),
        plain.axes[0].get_ylim(),
    )
    assert drawn(front) == set()
    assert not any("published" in text for text in labels(front))
    assert first.get_title(loc="left").endswith("not comparable: other ratio")
    assert "nominal_ratio" in first.get_xlabel()


def test_panels_do_not_overlap():
    figure = draw(picture(alike("ratio")[1]))
    png(figure)  # lays it out
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    width, height = figure.bbox.width, figure.bbox.height
    for index, box in enumerate(boxes):
        assert box.x0 >= -1
        assert box.x1 <= width + 1
        assert box.y0 >= -1
        assert box.y1 <= height + 1
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def written(data, folder, **options):
    write_report(data, fs.LocalFileSystem(), str(folder), formats=("csv", "md"), **options)
    return (folder / "summary.md").read_text()


def test_the_summary_lists_every_point_and_what_a_reproduction_takes(tmp_path):
    data, _ = alike()
    text = written(data, tmp_path, x="nominal_ratio", published=tuple(SYSTEMS))
    section = text.split("## Published points")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if re.match(r"\| 00[023] ", line)]
    assert len(table) == len(POINTS)
    assert sum(line.endswith("| yes |") for line in table) == len(of("lora_compression"))
    assert "not published | no: no score published" in section
    absent = {name for name, s in SYSTEMS.items() if f"{s.title} (" in section}
    assert absent == {"pc_lora", "svd_lora"}
    assert all(SYSTEMS[name].command in section for name in absent)
    rows = list(csv.DictReader((tmp_path / "published.csv").read_text().splitlines()))
    assert [row["comparable"] == "True" for row in rows] == [
        line.endswith("| yes |") for line in table
    ]
    assert parse_rows(rows) == POINTS


def parse_rows(rows):
    lines = [",".join(list(rows[0])[:-2])]
    lines += [",".join(f'"{cell}"' for cell in list(row.values())[:-2]) for row in rows]
    return parse_points("\n".join(lines) + "\n")


def test_the_study_names_its_systems_and_the_command_overrides_them(tmp_path):
    data = synthetic.study()
    data = replace(data, info={**data.info, "config": {"published": ["svd_lora"]}})
    assert "003 SVDLoRA" in written(data, tmp_path / "own")
    other = written(data, tmp_path / "other", published=("pc_lora",))
    assert "002 PC-LoRA" in other
    assert "SVDLoRA" not in other
    none = written(data, tmp_path / "none", published=())
    assert "Published" not in none
    assert not (tmp_path / "none/published.csv").exists()


def test_a_study_from_before_subjects_still_loads(tmp_path):
    folder = synthetic.write(tmp_path / "s", synthetic.study())
    assert "subject" not in json.loads((folder / "study.json").read_text())
    found = findings(load_study(str(folder)), "nominal_ratio", published=SYSTEMS)
    assert {type(one) for one in found.published} == {Placed}
    assert all(one.why_not for one in found.published)


def test_a_subject_in_other_words_is_refused():
    data = synthetic.study()
    with pytest.raises(StudyDataError, match="study.json: subject: .*unknown field"):
        findings(replace(data, info={**data.info, "subject": {"modell": "x"}}))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("svd_lara",), "did you mean 'svd_lora'?"),
        (("none", "svd_lora"), "none is no system"),
    ],
)
def test_the_command_refuses_a_name_that_is_none(names, message, tmp_path):
    options = [word for name in names for word in ("--published", name)]
    command = [sys.executable, str(ROOT / "analysis/pareto.py"), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_command_of_a_reproduction_is_a_command(name):
    words = shlex.split(SYSTEMS[name].command)
    assert words[:4] == ["python", "-m", "study.run", "--config"]
    config = ROOT / words[4]
    if not config.is_file():
        pytest.skip(f"{words[4]} is not here")
    overrides = dict(w.split("=", 1) for w in words[6::2])
    assert set(words[5::2]) == {"--set"}
    errors = errors_of(lambda: load_config(config, overrides))
    assert all("/path/to/" in text for text in errors)
