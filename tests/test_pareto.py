"""`python analysis/pareto.py`: what it reads, and one sentence for what it cannot."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import synthetic_study as synthetic
from click.testing import CliRunner
from pyarrow import fs, parquet
from synthetic_study import ORIGIN

from analysis.formats import DEFAULT, FORMATS
from analysis.load import Row, StudyData, StudyDataError, load_study
from analysis.pareto import main
from analysis.report import write_report
from analysis.telling import told
from analysis.tracked import load_tracked
from trainables.record import Choice, Outcome, Record, Status, canonical

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def study():
    return synthetic.study()


def made(bits: float, accuracy: float, seed: int = 0, **more) -> Record:
    asked = synthetic.trial(Choice("int1"), seed=seed)
    return synthetic.record(asked, synthetic.size(bits, 2), accuracy, **more)


def pareto(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "analysis/pareto.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=50)


def test_the_command_reports_the_newest_study(study, tmp_path):
    for name, day in (("old", 1), ("new", 9), ("older", 0)):
        folder = synthetic.write(tmp_path / "results" / name, study)
        stamp = 1_700_000_000 + 86_400 * day
        os.utime(folder / "study.json", (stamp, stamp))
    done = pareto(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in (tmp_path / "results/new/report").iterdir()}
    listed = {"trials.csv", ".report.json"}
    assert names - {"charts"} == {FORMATS[kind] for kind in DEFAULT} | listed
    assert "results/new/report/summary.md" in done.stdout
    assert not (tmp_path / "results/old/report").exists()


def test_the_command_takes_formats_axes_and_an_output(study, tmp_path):
    folder = synthetic.write(tmp_path / "s", study)
    options = ["--format", "md", "--x", "file_bytes", "--y", "val_accuracy"]
    done = pareto(folder, *options, "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"summary.md", ".report.json"}


def test_formats_may_stand_apart(study, tmp_path):
    folder = synthetic.write(tmp_path / "s", study)
    done = pareto(folder, "--format", " md, csv", "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"summary.md", "front.csv"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_one_line_of_json_says_what_was_written(study, tmp_path):
    folders = [synthetic.write(tmp_path / name, replace(study, info={**study.info, "name": name}))
               for name in ("one", "two")]  # fmt: skip
    done = pareto(*folders, "--json", "--format", "md,csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert said["exit_code"] == 0
    assert [one["study"] for one in said["reports"]] == ["one", "two"]
    for one in said["reports"]:
        assert one["headline"] in Path(one["report"]["md"]).read_text().replace("*", "").replace(
            "`", ""
        ).replace("\\", "")
        assert Path(one["report"]["csv"]).is_file()
    done = pareto(*folders, "--compare", "--json", "--format", "md", cwd=tmp_path)
    (line,) = done.stdout.splitlines()
    assert Path(json.loads(line)["comparison"]["md"]).is_file()
    done = pareto("none", "--json", "--quiet", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stdout.splitlines()
    assert json.loads(line) == {"exit_code": 2, "errors": [done.stderr.strip()]}


@pytest.mark.parametrize("quiet", [False, True])
def test_what_takes_long_says_so(quiet, study, tmp_path, monkeypatch):
    folder = synthetic.write(tmp_path / "s", study)
    monkeypatch.setattr("analysis.pareto.told", partial(told, first=0.0))
    options = ["--format", "md", *["--quiet"] * quiet]
    done = CliRunner().invoke(main, [str(folder), *options])
    assert done.exit_code == 0, done.output
    assert ("writing the report of synthetic" in done.stderr) is not quiet
    assert "writing" not in done.stdout


def links(page: Path) -> set[str]:
    return set(re.findall(r'"((?:[^"]*/)?artifacts/[^"]*)"', page.read_text()))


def test_links_to_files_lead_there_from_where_the_report_is(study, tmp_path):
    folder = synthetic.write(tmp_path / "of me" / "s", study)
    for where, way in (("of me/s/report", ".."), ("out", "../of%20me/s"), ("of me/x/y", "../../s")):
        out = ["--output", tmp_path / where] if where != "of me/s/report" else []
        done = pareto(folder, "--format", "html", *out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found = {link for link in links(tmp_path / where / "report.html") if "/art" in link}
        assert found
        assert all(link.startswith(f"{way}/artifacts/") for link in found)


def test_without_a_way_to_the_study_its_files_are_text(study, tmp_path):
    write_report(study, fs.LocalFileSystem(), str(tmp_path), formats=("html",))
    assert links(tmp_path / "report.html")
    assert all(link.startswith("artifacts/") for link in links(tmp_path / "report.html"))


def _other_split(data: dict) -> None:
    data["origin"]["fingerprint"]["data"] = "e" * 16


def _other_weights(data: dict) -> None:
    data["origin"]["fingerprint"]["weights"] = "e" * 16


def _other_task(data: dict) -> None:
    data["trial"]["task"] = {"name": "mnist", "args": {}}


@pytest.mark.parametrize(
    ("change", "what"),
    [(_other_split, "splits"), (_other_weights, "dense baselines"), (_other_task, "tasks")],
)
@pytest.mark.parametrize("compare", [False, True])
def test_records_that_share_no_axis_are_refused(change, what, compare, study, tmp_path):
    folder = synthetic.write(tmp_path / "s", study)
    change_record(folder, change)
    more = [synthetic.write(tmp_path / "t", study), "--compare"] if compare else []
    done = CliRunner().invoke(main, [str(folder), *map(str, more), "--output", str(tmp_path / "o")])
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert f"{folder}: its records are of 2 {what}" in line
    assert not (tmp_path / "o").exists()


def change_record(folder: Path, change) -> None:
    path = folder / "records/records.parquet"
    rows = parquet.read_table(path).to_pylist()
    data = json.loads(rows[-1]["record_json"])
    change(data)
    rows[-1]["record_json"] = json.dumps(data)
    parquet.write_table(pa.Table.from_pylist(rows), path)


def put_nan(data) -> None:
    data["outcome"]["metrics"]["val"]["accuracy"] = float("nan")


def put_newer_schema(data) -> None:
    data |= {"schema": 99, "something_new": 1}


def no_records(folder: Path) -> None:
    (folder / "records/records.parquet").unlink()


def torn_table(folder: Path) -> None:
    path = folder / "records/records.parquet"
    path.write_bytes(path.read_bytes()[:-40])


def foreign_table(folder: Path) -> None:
    parquet.write_table(pa.table({"a": [1]}), folder / "records/records.parquet")


BAD = {
    "nan": (lambda f: change_record(f, put_nan), "trial number 0: .*NaN is no number"),
    "newer record": (lambda f: change_record(f, put_newer_schema), "schema 99.*upgrade"),
    "newer study": (lambda f: (f / "study.json").write_text('{"schema": 7}'), "schema 7.*upgrade"),
    "no JSON": (lambda f: (f / "study.json").write_text("{"), "study.json: is not JSON"),
    "no records": (no_records, "no finished trial yet"),
    "torn table": (torn_table, "not a readable Parquet file"),
    "foreign table": (foreign_table, "has no column record_json, role, number"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_cannot_be_read(case, tmp_path):
    rows = (*synthetic.baselines(), Row(made(2, 0.98)))
    folder = synthetic.write(tmp_path / "s", StudyData("s", synthetic.info(), rows))
    spoil, message = BAD[case]
    spoil(folder)
    with pytest.raises(StudyDataError, match=message) as caught:
        load_study(str(folder))
    assert "\n" not in str(caught.value)


def failing(tmp_path: Path, rows) -> Path:
    return synthetic.write(tmp_path / "s", StudyData("s", synthetic.info(), tuple(rows)))


def test_the_command_says_bad_input_in_one_line(tmp_path):
    """Each through the real command: exit 2, one line, no report."""
    failed = Record(made(2, 0.9).trial, Outcome(Status.FAILED, error="loss is nan"), ORIGIN)
    folder = failing(tmp_path, [*synthetic.baselines(), Row(failed)])
    cases = [
        ((), "no study in ./results; run one first"),
        (("nowhere",), "nowhere: no such study"),
        ((folder,), "no trial finished: all 1 failed, 1 of them: loss is nan"),
        ((folder, "--y", "test_accuracy"), "fronts are chosen on validation"),
    ]
    for arguments, message in cases:
        done = pareto(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (folder / "report").exists()


def test_what_the_command_says_holds_no_secret_and_commands_no_terminal(tmp_path):
    text = "\x1b]0;title\x07 s3://KEY:SECRET@bucket/x"
    failed = Record(made(2, 0.9).trial, Outcome(Status.FAILED, error=text), ORIGIN)
    folder = failing(tmp_path, [*synthetic.baselines(), Row(failed)])
    for argument in (folder, "s3://KEY:SECRET@bucket/x?no_such_option=1"):
        done = pareto(argument, cwd=tmp_path)
        assert done.returncode == 2
        assert "s3://***@bucket/x" in done.stderr
        assert "SECRET" not in done.stderr
        assert "\x1b" not in done.stderr


def test_a_format_or_axis_that_is_unknown(tmp_path):
    for option in (("--format", "htm"), ("--x", "weight")):
        done = pareto(*option, cwd=tmp_path)
        assert done.returncode == 2
        assert option[1] in done.stderr


def test_no_file_here_hides_a_library():
    """`python analysis/pareto.py` has analysis/ first on its path."""
    libraries = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    ours = {p.stem for p in (REPOSITORY / "analysis").glob("*.py")} - {"__init__"}
    assert not ours & libraries


@pytest.mark.slow
def test_a_study_is_read_back_from_its_tracking_store(study, tmp_path):
    """Where its folder is gone; MLflow needs seconds to make a store."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("paretune", str(tmp_path / "artifacts"))
    tags = {"paretune.study": "id"}
    parent = client.create_run(experiment, tags=tags, run_name="one").info.run_id
    client.log_text(parent, json.dumps(dict(study.info)), "study.json")
    for row in study.rows[:9]:
        more = {"mlflow.parentRunId": parent, "paretune.trial": row.record.trial_id}
        more |= {"role": row.role, "number": str(row.number)}
        run = client.create_run(experiment, tags=tags | more).info.run_id
        client.log_text(run, canonical(row.record), "record.json")
        client.set_terminated(run)
    loaded = load_tracked(uri, "one")
    assert loaded.rows == study.rows[:9]
    assert loaded.info == study.info
    with pytest.raises(StudyDataError, match="holds no study two"):
        load_tracked(uri, "two")
    client.create_run(experiment, tags={"paretune.study": "sent"}, run_name="../../evil")
    for name in ("../../evil", None):
        with pytest.raises(StudyDataError, match="its name is no part of a path"):
            load_tracked(uri, name)


def test_a_tracking_server_that_does_not_answer(tmp_path):
    done = pareto("gone", "--tracking-uri", "http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 2
    assert "the tracking store cannot be read" in done.stderr


def small(tmp_path: Path, count: int = 1) -> Path:
    """A study whose trials, so many, are all one point."""
    rows = [Row(made(2, 0.98, seed), number=seed) for seed in range(count)]
    return failing(tmp_path, [*synthetic.baselines(), *rows])


@pytest.mark.parametrize("count", [1, 3], ids=["one trial", "all on one point"])
def test_few_trials_are_a_report_too(count, tmp_path):
    formats = ",".join(set(FORMATS) - {"png", "svg"})
    done = CliRunner().invoke(main, [str(small(tmp_path, count)), "--format", formats])
    assert done.exit_code == 0, done.output
    metric, head, *lines = done.stdout.splitlines()
    assert metric == "val: accuracy"
    assert head.split()[:3] == ["ratio", "bytes", "val"]
    assert sum("int1" in line for line in lines) == count
    data = json.loads((tmp_path / "s/report/report.json").read_text())
    assert data["front"]["count"] == count + len(synthetic.baselines())


REFUSED = {
    "NaN in an old record": ([], "NaN is no number", put_nan),
    "a newer schema": ([], "schema 99", put_newer_schema),
    "nowhere to write": (["--output", "file/report"], "cannot be written", None),
    "a metric that nobody has": (["--y", "val_nothing"], "none of 1 trials has", None),
    "a format that is none": (["--format", "html,pdf"], "pdf: expected some of html,csv", None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_said_in_a_sentence_and_leaves_no_report(case, tmp_path, monkeypatch):
    options, message, change = REFUSED[case]
    folder = small(tmp_path)
    if change:
        change_record(folder, change)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    done = CliRunner().invoke(main, [str(folder), *options])
    assert done.exit_code == 2
    beside = ("Usage: ", "Try ", "reading", "writing")  # how it is called, and progress
    said = [line for line in done.stderr.splitlines() if line and not line.startswith(beside)]
    assert len(said) == 1
    assert message in said[0]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_a_report_that_fails_leaves_the_one_before(tmp_path):
    folder = small(tmp_path)
    assert CliRunner().invoke(main, [str(folder), "--format", "md,csv"]).exit_code == 0
    was = {path: path.read_bytes() for path in (folder / "report").rglob("*") if path.is_file()}
    change_record(folder, put_nan)
    assert CliRunner().invoke(main, [str(folder)]).exit_code == 2
    assert {p: p.read_bytes() for p in (folder / "report").rglob("*") if p.is_file()} == was
