"""The report: right numbers, also of odd studies."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic_study as synthetic
from pyarrow import fs
from synthetic_study import ORIGIN

from analysis.columns import AXES, front
from analysis.figure_files import png
from analysis.findings import findings
from analysis.formats import FORMATS
from analysis.load import Row, StudyData, StudyDataError, find_study, load_study, parse_info
from analysis.plots import draw
from analysis.replacing import replace_all
from analysis.report import picture, write_report
from analysis.report_files import put
from analysis.summary import headline
from study import description
from study.store.storage import Storage
from trainables.record import Choice, Outcome, Record, Status

COLUMNS = """trial_id method init adapter rank optimizer epochs_done val_accuracy test_accuracy drop
ratio layer_ratio nominal_ratio ratio_vs_fp16 stored_bytes file_bytes macs verified artifact"""


@pytest.fixture(scope="module")
def study():
    return synthetic.study()


def made(bits: float, accuracy: float, seed: int = 0, **more) -> Record:
    asked = synthetic.trial(Choice("int1"), seed=seed)
    return synthetic.record(asked, synthetic.size(bits, 2), accuracy, **more)


def report(data: StudyData, folder: Path, **options) -> list[dict[str, str]]:
    options = {"formats": ("csv", "md")} | options
    paths = write_report(data, fs.LocalFileSystem(), str(folder), **options)
    assert paths.csv
    return list(csv.DictReader(Path(paths.csv).read_text().splitlines()))


def test_front_is_what_no_search_trial_beats(study):
    members = front(study.rows)
    outcomes = [row.record.outcome for row in members]
    sizes = [(o.size.ratio, o.metrics["val"]["accuracy"]) for o in outcomes]
    assert sizes == sorted(sizes, key=lambda s: (s[0], -s[1]))
    for row in study.rows:
        outcome = row.record.outcome
        if row.role != "search" or not outcome.sha256:
            continue
        at = outcome.size.ratio, outcome.metrics["val"]["accuracy"]
        beaten = any(a >= at[0] and b >= at[1] and (a, b) != at for a, b in sizes)
        assert beaten or row in members


def test_front_takes_stopped_trials_and_leaves_out_those_without_artifact():
    stopped = Row(made(2, 0.98, 1, status=Status.STOPPED, epochs_done=4), number=1)
    lost = Row(made(1, 0.99, 2, sha256=None), number=2)
    failed = Row(Record(stopped.record.trial, Outcome(Status.FAILED, error="x"), ORIGIN))
    assert front([stopped, lost, failed, *synthetic.baselines()]) == [stopped]


def test_csv_holds_the_numbers_of_the_records(study, tmp_path):
    lines = report(study, tmp_path)
    assert set(COLUMNS.split()) <= set(lines[0])
    fp16 = next(r.record.outcome.size for r in study.rows if r.role == "fp16")
    for line, row in zip(lines, front(study.rows), strict=True):
        size, check = row.record.outcome.size, study.verifications[row.record.trial_id]
        assert line["trial_id"] == row.record.trial_id
        assert line["artifact"] == f"artifacts/{row.record.trial_id}.safetensors"
        assert float(line["ratio"]) == size.ratio
        assert float(line["ratio_vs_fp16"]) == fp16.file_bytes / size.file_bytes
        assert int(line["file_bytes"]) == size.file_bytes
        assert float(line["val_accuracy"]) == row.record.outcome.metrics["val"]["accuracy"]
        assert float(line["test_accuracy"]) == check.metrics["accuracy"]
        assert float(line["drop"]) == check.paired["dense"].drop
        assert float(line["drop_vs_recovered"]) == check.paired["dense_recovered"].drop
        assert line["verified"] == "True"


def test_what_was_not_measured_is_empty(study, tmp_path):
    lines = report(replace(study, verifications={}, rows=study.rows[4:]), tmp_path)
    assert {line["test_accuracy"] + line["drop"] + line["ratio_vs_fp16"] for line in lines} == {""}
    assert {line["verified"] for line in lines} == {"False"}
    assert "nothing was tested" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    "broken", [{"problems": ("val/accuracy is 0.5",)}, {"sha256": "0" * 64}, {"file_bytes": 1}]
)
def test_a_file_that_disagrees_is_not_verified_nor_certified(broken):
    rows = [*synthetic.baselines(), Row(made(2, 0.983))]
    check = synthetic.verification(rows[-1].record, 0, 0)
    good = StudyData("x", synthetic.info(), tuple(rows), {check.trial_id: check})
    bad = replace(good, verifications={check.trial_id: replace(check, **broken)})
    assert findings(good).certified is not None
    assert findings(bad).certified is None
    assert findings(bad).skipped == 1


def test_chosen_on_validation_and_certified_on_test_may_differ():
    rows = [*synthetic.baselines(), *(Row(made(b, 0.983 - d, i)) for i, (b, d) in enumerate(
        [(8, 0), (4, 0.003), (2, 0.0055), (1, 0.2)]
    ))]  # fmt: skip
    drops = [0, 1, 30, 150]
    checks = [synthetic.verification(r.record, d, 1) for r, d in zip(rows[4:], drops, strict=True)]
    data = StudyData("x", synthetic.info(), tuple(rows), {c.trial_id: c for c in checks})
    found = findings(data)
    assert found.chosen is not None
    assert found.chosen.row == rows[6]
    assert found.certified is not None
    assert found.certified.row == rows[5]
    assert found.failed_first is not None
    assert found.failed_first.row == rows[6]


def test_the_headline_says_by_itself_how_near_the_largest_comes():
    rows = [*synthetic.baselines(), Row(made(8, 0.97), "search", 0)]
    check = synthetic.verification(rows[-1].record, 9, 1)
    data = StudyData("x", synthetic.info(), tuple(rows), {check.trial_id: check})
    (point,) = findings(data).front
    said = headline(findings(data))
    largest, bound = f"{point.outcome.size.ratio:.3g}×", f"{100 * point.dense.upper:.2f} pp"
    assert said.endswith(
        f"{point.dense.n} examples certify the first in order, {largest}, within {bound}."
    )


@pytest.mark.parametrize(("drop", "said"), [(0, True), (40, False)])
def test_a_baseline_that_is_smaller_than_what_was_certified_is_named(drop, said, tmp_path):
    rows = [*synthetic.baselines(), Row(made(16, 0.983), "search", 0)]
    int8 = next(r for r in rows if r.role == "int8")
    checks = [
        synthetic.verification(rows[-1].record, 0, 1),
        synthetic.verification(int8.record, drop, 1),
    ]
    data = StudyData("x", synthetic.info(), tuple(rows), {c.trial_id: c for c in checks})
    report(data, tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert ("The baseline int8 is smaller than that" in text) is said


def test_summary_says_what_was_left_out(study, tmp_path):
    report(study, tmp_path)
    text = (tmp_path / "summary.md").read_text()
    failed = sum(r.record.outcome.status is Status.FAILED for r in study.rows)
    assert f"{failed} failed" in text
    assert "step 31: loss is nan" in text
    assert "not run again: 3" in text
    for name in ("dense_recovered", "fp16", "int8", "test 719", "torch 2.15.0", "Seed 0"):
        assert name in text
    assert all(row.record.trial_id in text for row in front(study.rows))


def test_only_a_front_that_the_study_decided_is_said_to_meet_its_constraints(study, tmp_path):
    asked = replace(study, info={**study.info, "constraints": ["drop <= 1pp"]})
    report(asked, tmp_path, x="layer_ratio")
    text = (tmp_path / "summary.md").read_text()
    assert "Every point of the front meets" not in text
    assert "not held to the study's constraints, drop" in text


def test_names_of_users_break_nothing(study, tmp_path):
    odd = "a|b $x_1$ <img src=x> `é` 😀\n" + "y" * 300
    lines = report(replace(study, name=odd, info={**study.info, "task": odd}), tmp_path)
    assert len(lines) == len(front(study.rows))
    assert "<img" not in (tmp_path / "summary.md").read_text().replace("\\<img", "")


@pytest.mark.parametrize(
    "records",
    [[made(2, 0.98)], [made(2, 0.98, i) for i in range(5)], [made(2, 1.0), made(1, 0.0, 1)]],
    ids=["one", "one point", "the whole range"],
)
@pytest.mark.parametrize("baselines", [True, False])
def test_odd_fronts_are_reported(records, baselines, tmp_path):
    rows = [Row(r, number=i) for i, r in enumerate(records)]
    rows += synthetic.baselines() if baselines else []
    lines = report(StudyData("x", synthetic.info(), tuple(rows)), tmp_path, formats=("csv", "html"))
    assert len(lines) == len(records)
    found = findings(StudyData("x", synthetic.info(), tuple(rows)))
    assert png(draw(picture(found))) == png(draw(picture(found)))


@pytest.mark.parametrize("x", sorted(AXES))
def test_other_axes(study, tmp_path, x):
    assert report(study, tmp_path, x=x, formats=("csv", "html"))
    assert draw(picture(findings(study, x))).axes[0].get_xlabel() == AXES[x].label


def test_files_are_all_put_into_place_or_none(tmp_path):
    disk, folder = fs.LocalFileSystem(), tmp_path / "report"
    put(disk, str(folder), {"a": b"1", "b": b"1", "charts/c": b"1"})
    (folder / "charts/c.part").mkdir()  # what cannot be written comes last
    with pytest.raises(StudyDataError, match=r"report: the report cannot be written"):
        put(disk, str(folder), {"a": b"2", "b": b"2", "charts/c": b"2"})
    assert [(folder / name).read_bytes() for name in ("a", "b", "charts/c")] == [b"1"] * 3
    assert {path.name for path in folder.iterdir()} == {"a", "b", "charts", ".report.json"}


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_what_a_report_no_more_has_goes_and_nothing_else(tmp_path):
    disk, folder = fs.LocalFileSystem(), tmp_path / "report"
    drawn = {"front.csv": b"1", "front.png": b"1", "charts/a.csv": b"1", "charts/b.csv": b"1"}
    put(disk, str(folder), drawn)
    put(disk, str(folder), {"comparison.csv": b"1"}, "comparison")
    for name in ("mine.csv", "charts/mine.csv"):
        (folder / name).write_bytes(b"mine")
    (folder / "charts/b.csv").write_bytes(b"mine now")
    put(disk, str(folder), {"front.csv": b"2"})
    kept = {"mine.csv", "charts/mine.csv", "charts/b.csv", "comparison.csv", "front.png"}
    assert names(folder) == {*kept, "front.csv", ".report.json", ".comparison.json"}
    put(disk, str(folder), {"front.csv": b"3"})  # charts/b.csv is still in the list, and theirs
    assert "charts/b.csv" in names(folder)
    put(disk, str(folder), {"summary.md": b"1", "charts/c.png": b"1"})
    assert "front.png" not in names(folder)
    assert "front.csv" in names(folder)  # of a format that was not written now


@pytest.mark.parametrize("listed", ["../theirs.csv", "/{}/theirs.csv", "a/../../theirs.csv"])
def test_a_list_that_came_with_a_study_removes_nothing_elsewhere(listed, tmp_path):
    theirs = tmp_path / "theirs.csv"
    theirs.write_bytes(b"theirs")
    folder = tmp_path / "report"
    folder.mkdir()
    known = {listed.format(tmp_path): hashlib.sha256(b"theirs").hexdigest()}
    (folder / ".report.json").write_text(json.dumps(known))
    put(fs.LocalFileSystem(), str(folder), {"front.csv": b"1"})
    assert theirs.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a.csv": 1}', "\x00"])
def test_a_list_that_is_damaged_removes_nothing(text, tmp_path):
    (tmp_path / "a.csv").write_bytes(b"1")
    (tmp_path / ".report.json").write_text(text)
    put(fs.LocalFileSystem(), str(tmp_path), {"front.csv": b"1"})
    assert names(tmp_path) == {"a.csv", "front.csv", ".report.json"}


@pytest.mark.parametrize("earlier", [False, True])
def test_a_folder_in_the_place_of_a_file_leaves_everything_as_it_was(earlier, study, tmp_path):
    folder = tmp_path / "deep/report"
    if earlier:
        report(study, folder)
    (folder / "front.csv").unlink(missing_ok=True)
    (folder / "front.csv").mkdir(parents=True)
    before = {p.relative_to(folder): p.is_dir() or p.read_bytes() for p in folder.rglob("*")}
    with pytest.raises(StudyDataError, match=r"cannot be written: .*front.csv is a folder"):
        report(replace(study, name="changed"), folder, formats=("html", "csv", "md"))
    after = {p.relative_to(folder): p.is_dir() or p.read_bytes() for p in folder.rglob("*")}
    assert after == before


class Failing(fs.LocalFileSystem):
    """Moves so many files, and no more."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def move(self, src: str, dest: str) -> None:
        if not src.endswith(".before"):
            if not self.left:
                raise OSError("the disk went away")
            self.left -= 1
        super().move(src, dest)


@pytest.mark.parametrize("left", range(3))
def test_files_that_were_moved_are_moved_back(left, tmp_path):
    disk, folder = fs.LocalFileSystem(), tmp_path / "report"
    replace_all(disk, str(folder), {"a": b"1", "b": b"1"})
    with pytest.raises(StudyDataError, match="the disk went away"):
        replace_all(Failing(left), str(folder), {"a": b"2", "new/c": b"2", "b": b"2"})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"a": b"1", "b": b"1"}


def test_reports_are_repeatable(study, tmp_path):
    formats = set(FORMATS) - {"png", "svg"}  # of pictures that is held elsewhere
    for folder in ("a", "b"):
        report(study, tmp_path / folder, formats=formats)
    made = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert {path.suffix[1:] for path in made} == formats
    for path in made:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_study_survives_its_files(study, tmp_path):
    loaded = load_study(str(synthetic.write(tmp_path / "s", study)))
    assert loaded.rows == study.rows
    assert loaded.verifications == study.verifications
    assert loaded.info == study.info


def test_a_uri_works_and_names_are_looked_up_in_the_storage(study, tmp_path, monkeypatch):
    folder = synthetic.write(tmp_path / "results/one", study)
    assert load_study(folder.as_uri()).rows == study.rows
    monkeypatch.chdir(tmp_path)
    assert find_study("one") == find_study(None) == "results/one"
    assert find_study("two") is None


def test_only_baselines_is_no_finished_trial(tmp_path):
    with pytest.raises(StudyDataError, match="no finished trial yet, only baselines"):
        findings(StudyData("s", synthetic.info(), tuple(synthetic.baselines())))


def test_a_folder_that_cannot_be_written(study, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyDataError, match="cannot be written"):
        report(study, tmp_path / "file/report")


def test_a_study_json_that_was_changed_is_refused(tmp_path):
    storage = Storage.open(tmp_path)
    description.write(storage, {"name": "s", "reference": {"val_accuracy": 0.1}, "front": ()})
    text = storage.read_text("study.json")
    assert parse_info(text, "there") == {
        "name": "s",
        "reference": {"val_accuracy": 0.1},
        "front": [],
    }
    with pytest.raises(StudyDataError, match=r"there: is damaged"):
        parse_info(text.replace("0.1", "0.5"), "there")
    assert parse_info('{"name": "of before there were checksums"}', "there")
