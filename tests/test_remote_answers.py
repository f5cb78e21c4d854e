"""What ``--json`` says of a study on a cluster: the job's words, of the files that are here."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from remote_hosts import NOWHERE

from clusters import connection
from study.errors import StorageError
from study.remote import job, results
from study.remote.client import Remote
from study.remote.spec import ANSWER, Spec
from study.result import StudyResult
from study.run import main
from study.store.storage import Storage


def answer_of(code, **said):
    """What is told of a study whose job said this at its end."""
    Path("results/s").mkdir(parents=True, exist_ok=True)
    known = {"report": {}, "smallest_certified": None, "tracking_uri": "", "runs_page": ""}
    Path("results/s", ANSWER).write_text(json.dumps({"exit_code": 0} | known | said))
    return results.Ended("s", code).answer()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The user's folder, with some files of study ``s``."""
    monkeypatch.chdir(tmp_path)
    for name in ("report/report.html", "artifacts/abc.safetensors"):
        (tmp_path / "results" / "s" / name).parent.mkdir(parents=True)
        (tmp_path / "results" / "s" / name).touch()
    return tmp_path / "results" / "s"


def test_a_jobs_answer_names_the_files_that_were_fetched(here):
    report = {"html": "bucket/s/report/report.html", "md": "bucket/s/report/summary.md"}
    said = answer_of(0, report=report, smallest_certified="bucket/s/artifacts/abc.safetensors")
    assert said["location"] == str(here)
    assert said["report"] == {"html": str(here / "report" / "report.html")}
    assert said["smallest_certified"] == str(here / "artifacts" / "abc.safetensors")
    assert answer_of(0, smallest_certified="bucket/s/artifacts/d.safetensors")[
        "smallest_certified"
    ] is None  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "kept"),
    [("http://127.0.0.1:5000", ""), ("https://mlflow.example", "https://mlflow.example")],
)
def test_the_heads_own_mlflow_is_nothing_here(here, uri, kept):
    said = answer_of(0, tracking_uri=uri, runs_page=uri and f"{uri}/#/experiments/1")
    assert said["tracking_uri"] == kept
    assert said["runs_page"].startswith(kept)
    assert bool(said["runs_page"]) == bool(kept)


def test_what_a_study_said_before_is_not_how_it_ends_now(here):
    why = "the study's own words are on standard error"
    failed = {"name": "s", "location": str(here), "exit_code": 1, "errors": [why]}
    assert answer_of(1, trials=8) == failed  # it said that all was well
    results.forget("s")
    assert results.Ended("s", 1).answer() == failed
    assert results.Ended("s", 130, "detached").answer()["errors"] == ["detached"]
    assert "trials" in answer_of(1, trials=8, exit_code=1)


class Ending:
    """A study whose end is what is given."""

    def __init__(self, storage, end):
        self.storage, self.run = storage, end

    def __call__(self, *args, **named):
        return self


@pytest.fixture
def head(tmp_path, monkeypatch):
    """Run a job on a head whose results folder has an answer from before; the folder."""
    place = tmp_path / "head" / "s"
    place.mkdir(parents=True)
    (place / ANSWER).write_text("{}")
    (tmp_path / "study.yaml").write_text("task: digits")
    Spec("s").write(tmp_path)
    monkeypatch.setattr(job, "RESULTS", str(place.parent))
    monkeypatch.setattr(connection, "connected", lambda *args, **named: nullcontext())
    monkeypatch.setattr(job.nodes, "launched", dict)
    monkeypatch.setattr(job, "_ready", lambda *args: ())

    def run(end, storage=None):
        monkeypatch.setattr(job, "Study", Ending(storage or Storage.open(tmp_path / "other"), end))
        return job.main(tmp_path)

    run.place = place
    return run


def test_a_job_leaves_its_answer_beside_the_studys_files(head, tmp_path, capsys):
    assert head(lambda: StudyResult("s", "there", (), (), exit_code=1)) == 1
    for folder in (head.place, tmp_path / "other"):
        said = json.loads((folder / ANSWER).read_text())
        assert (said["name"], said["exit_code"], said["location"]) == ("s", 1, "there")


def test_a_job_that_fails_leaves_none_from_before(head, monkeypatch):
    def fails(*args):
        raise StorageError("full")

    with pytest.raises(StorageError):
        head(fails)
    assert not (head.place / ANSWER).exists()
    (head.place / ANSWER).write_text("{}")
    monkeypatch.setattr(job, "_ready", fails)  # it never came to its study
    with pytest.raises(StorageError):
        head(fails)
    assert not (head.place / ANSWER).exists()


def test_an_answer_that_cannot_be_written_does_not_hide_how_the_study_ended(head, capsys):
    class Full(Storage):
        def write_bytes(self, name, data):
            raise StorageError("no room")

    storage = Storage.open(head.place.parent / "full")
    full = Full(**vars(storage))
    assert head(lambda: StudyResult("s", "there", (), ()), full) == 0
    assert "no room" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1, 130])
def test_with_json_there_is_one_line_and_nothing_beside_it(tmp_path, monkeypatch, capfd, code):
    def follow(remote, name):
        print("of a library")
        return results.Ended(name, code, "why")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Remote, "attach", follow)
    Path("tiny.yaml").write_text(NOWHERE)
    words = ["--cluster", "tiny.yaml", "--attach", "--name", "s", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words, standalone_mode=False)
    out = capfd.readouterr()
    (line,) = out.out.splitlines()
    said = json.loads(line)
    assert (ended.value.code, said["exit_code"], said["name"]) == (code, code, "s")
    assert said.get("errors") == (["why"] if code else None)
    assert "of a library" in out.err
