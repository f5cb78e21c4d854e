"""Published points: complete, held to their own formulas, and on a study's axes only if alike."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import replace
from importlib import resources

import pytest
from tiny_task import TinyTask

from analysis.load import StudyDataError
from analysis.published import (
    FILE,
    KINDS,
    SYSTEMS,
    parse_points,
    placed,
    published_points,
    why_not,
)
from compression.registry import InvalidSetting
from study.config import make_config, parse_config
from study.description import describe, identity
from study.state import StudyState
from trainables.record import Fingerprint, Objective, Subject, from_json, to_json
from trainables.tasks import TASKS, Digits, ImageClassification, Prepared, TensorSplit

POINTS = published_points()
ACCURACY = Objective("val_accuracy", unit="fraction")
RANKS = (2, 4, 8, 16, 32, 64, 128)
INT1 = (26.91, 23.22, 18.22, 12.74, 7.95, 4.54, 2.44)
SPARSE = (14.62, 13.46, 11.61, 9.11, 6.37, 3.98, 2.27)


def of(system, start=""):
    return [p for p in POINTS if p.system == system and p.point.startswith(start)]


def rank(point):
    return int(re.search(r"rank (\d+)", point.point)[1])


def test_every_point_is_there():
    assert Counter(p.system for p in POINTS) == {
        "lora_compression": 2 * 2 * (1 + 1 + len(RANKS)),
        "pc_lora": 5,
        "svd_lora": (1 + 9) + 10 + 2 * (1 + 8),
    }
    assert all((p.value is None) == (p.system == "pc_lora") for p in POINTS)
    named = {(p.system, p.point, p.metric) for p in POINTS}
    cells = {f"{c} rank {r} {i} init" for c in ("int1", "sparse") for r in (0, *RANKS)
             for i in ("paper", "svd")}  # fmt: skip
    assert {("lora_compression", cell, "accuracy") for cell in cells} <= named


@pytest.mark.parametrize(("name", "bits", "printed"), [("int1", 1, INT1), ("sparse", 2, SPARSE)])
@pytest.mark.parametrize("init", ["paper", "svd"])
def test_nominal_ratios_are_the_formula(name, bits, printed, init):
    m, n = 1000, 512
    found = {rank(p): p.ratio for p in of("lora_compression", f"{name} rank") if init in p.series}
    assert found == {0: 32 / bits, **dict(zip(RANKS, printed, strict=True))}
    for r, ratio in found.items():
        assert ratio == round(32 * m * n / (bits * m * n + 32 * r * (m + n)), 2)


@pytest.mark.parametrize("table", [1, 2, 3])
def test_a_share_of_the_values_is_the_ratio_turned_over(table):
    for point in of("svd_lora", f"table {table}"):
        share = re.search(r"(\d+)%", point.point)
        percent = int(share[1]) if share else 100
        assert point.ratio == pytest.approx(100 / percent, abs=1e-4)
        assert point.ratio_kind == "linear_values"
        if table == 3 and share:
            assert rank(point) == 34 * percent // 10


def test_one_setting_has_one_score_in_both_tables():
    one, two = (
        next(p for p in of("svd_lora", f"table {t}") if "3 sub-matrices, 10%" in p.point)
        for t in (1, 2)
    )
    assert (one.value, one.ratio) == (two.value, two.ratio)


def test_what_removes_a_share_leaves_the_rest():
    for point in of("pc_lora"):
        if removed := re.search(r"([\d.]+)% removed", point.note):
            assert 1 - 1 / point.ratio == pytest.approx(float(removed[1]) / 100, abs=5e-4)


def stated(kind="nominal_ratio", **more):
    """A point whose subject is stated, as a study could share it."""
    return replace(of("lora_compression", "int1 rank 8")[0], ratio_kind=kind, **more)


def test_the_same_words_are_comparable():
    point = stated()
    assert why_not(point, point.subject, ACCURACY, "nominal_ratio") == ""


@pytest.mark.parametrize("word", ["model", "data", "split"])
@pytest.mark.parametrize(("to", "said"), [("another", "other {}"), ("", "{} not stated")])
def test_another_subject_is_not_comparable(word, to, said):
    point = stated()
    other = replace(point.subject, **{word: to})
    assert why_not(point, other, ACCURACY, "nominal_ratio") == said.format(word)
    unsaid = replace(point, subject=replace(point.subject, **{word: ""}))
    assert word in why_not(unsaid, unsaid.subject, ACCURACY, "nominal_ratio")


@pytest.mark.parametrize("kind", [*KINDS, "ratio"])
@pytest.mark.parametrize("axis", ["ratio", "layer_ratio", "nominal_ratio", "file_bytes"])
def test_a_ratio_stands_on_the_axis_of_its_kind_only(kind, axis):
    point = stated(kind)
    assert (why_not(point, point.subject, ACCURACY, axis) == "") == (kind == axis)


@pytest.mark.parametrize(
    "y", [Objective("val_agreement", unit="fraction"), Objective("val_accuracy")]
)
def test_another_metric_or_unit_is_not_comparable(y):
    point = stated()
    assert why_not(point, point.subject, y, "nominal_ratio") == "other metric"


def test_what_no_score_is_published_of_is_never_comparable():
    point = stated(metric="", value=None)
    assert why_not(point, point.subject, ACCURACY, "nominal_ratio") == "no score published"


def test_nothing_shipped_is_comparable_with_a_study_that_says_nothing():
    assert all(one.why_not for one in placed(SYSTEMS, Subject(), ACCURACY, "nominal_ratio"))


def edited(column, value):
    text = resources.files("analysis").joinpath(FILE).read_text()
    reader = csv.DictReader(text.splitlines())
    row = {**next(reader), column: value}
    lines = [",".join(reader.fieldnames), ",".join(f'"{cell}"' for cell in row.values())]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("system", "004 X", "unknown system '004 X'"),
        ("ratio_kind", "bytes", "unknown kind of ratio 'bytes'"),
        ("ratio", "0", "ratio 0.0 is not above 0"),
        ("ratio", "inf", "ratio inf is not above 0"),
        ("ratio", "much", "could not convert"),
        ("value", "69.6", "value 69.6 is no fraction"),
        ("value", "nan", "value nan is no fraction"),
        ("value", "", "a metric and its value"),
        ("series", "", "say what it is"),
    ],
)
def test_a_row_that_cannot_be_is_refused(column, value, message):
    with pytest.raises(StudyDataError, match=f"{FILE}:2: .*{re.escape(message)}"):
        parse_points(edited(column, value))


def test_columns_and_repeats_are_checked():
    good = edited("note", "")
    assert len(parse_points(good)) == 1
    with pytest.raises(StudyDataError, match="is there twice"):
        parse_points(good + good.splitlines()[1] + "\n")
    with pytest.raises(StudyDataError, match="expected the columns"):
        parse_points(good.replace("series", "serious", 1))


BAD = {
    "svd_lara": "unknown published system 'svd_lara'; did you mean 'svd_lora'?",
    "[svd_lora, svd_lora]": "svd_lora: named twice",
    "3": "unknown published system '3'; known: lora_compression",
    "[[svd_lora]]": "unknown published system",
}


@pytest.mark.parametrize("text", BAD)
def test_the_config_refuses_it_too(text):
    with pytest.raises(InvalidSetting) as caught:
        parse_config(f"task: digits\npublished: {text}", "bad.yaml")
    (error,) = caught.value.errors
    assert error.startswith("bad.yaml:2: published: ")
    assert BAD[text] in error


def test_published_systems_are_no_part_of_what_a_study_is():
    plain, more = (parse_config(f"task: digits\n{t}") for t in ("", "published: svd_lora"))
    task = TinyTask()
    data = Prepared(task.architecture(), task.test(0), task.test(0), Fingerprint("w", "d"))
    assert isinstance(data.train, TensorSplit)
    assert identity(plain, data) == identity(more, data)
    info = describe(more, "s", data, StudyState(), ())
    assert info["config"]["published"] == ["svd_lora"]
    assert make_config(info["config"]).published == more.published == ("svd_lora",)
    assert from_json(Subject, info["subject"]) == Digits().subject


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_what_it_is_of(name):
    try:
        subject = TASKS[name]().subject
    except InvalidSetting:
        pytest.skip("needs settings")
    assert subject.model
    assert subject.data
    assert from_json(Subject, to_json(subject)) == subject


def test_images_say_weights_data_and_that_their_split_is_not_the_official_one():
    task = ImageClassification(model="timm/resnet18.tv_in1k", data="cifar10")
    assert task.subject == Subject(
        "timm/resnet18.tv_in1k, library weights", "cifar10", "80/10/10 by the seed"
    )
    tuned = ImageClassification(weights="finetune", data="/my/photos", limit=100, test_share=0.2)
    assert tuned.subject == Subject(
        "resnet18, fine-tuned from library weights", "folder", "70/10/20 of 100 images by the seed"
    )
    secret = ImageClassification(weights="/my/weights.pth", image_size=64).subject
    assert secret.model == "resnet18 at 64 pixels, weights of a file"
