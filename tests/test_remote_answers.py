"""What ``--json`` says of a study on a cluster: the job's words, of the files that are here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from study.remote import results
from study.remote.client import Remote
from study.remote.spec import ANSWER
from study.run import main

FILE = """
cluster_name: tiny
provider: {type: aws, region: eu-north-1}
auth: {ssh_user: ubuntu}
available_node_types:
  head: {node_config: {}, resources: {CPU: 0}}
head_node_type: head
metadata: {study: {storage: "file:///tmp/none"}}
"""


def answer_of(folder, name, code, **said):
    """What a job said at its end, as it is told where its study's files were fetched."""
    files = {"report": {}, "smallest_certified": None} | said
    (folder / "results" / name).mkdir(parents=True, exist_ok=True)
    (folder / "results" / name / ANSWER).write_text(json.dumps({"exit_code": 0, **files}))
    return results.Ended(name, code).answer()


def test_a_jobs_answer_names_the_files_that_were_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = {"html": "bucket/s/report/report.html", "md": "bucket/s/report/summary.md"}
    ships = "bucket/s/artifacts/abc.safetensors"
    said = answer_of(tmp_path, "s", 0, report=report, smallest_certified=ships, trials=4)
    assert said == {
        "exit_code": 0,
        "trials": 4,
        "location": "results/s",
        "report": {"html": "results/s/report/report.html", "md": "results/s/report/summary.md"},
        "smallest_certified": "results/s/artifacts/abc.safetensors",
    }
    assert answer_of(tmp_path, "s", 1)["smallest_certified"] is None


def test_what_a_study_said_before_is_not_how_it_ends_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "errors" not in answer_of(tmp_path, "s", 1)
    results.forget("s")
    assert results.Ended("s", 1).answer()["errors"] == [
        "the study's own words are on standard error"
    ]
    assert results.Ended("s", 130, "detached").answer()["errors"] == ["detached"]


@pytest.mark.parametrize("code", [0, 1, 130])
def test_with_json_there_is_one_line_and_nothing_beside_it(tmp_path, monkeypatch, capfd, code):
    def follow(remote, name):
        print("of a library")
        return results.Ended(name, code, "why")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Remote, "attach", follow)
    Path("tiny.yaml").write_text(FILE)
    words = ["--cluster", "tiny.yaml", "--attach", "--name", "s", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words, standalone_mode=False)
    out = capfd.readouterr()
    (line,) = out.out.splitlines()
    said = json.loads(line)
    assert (ended.value.code, said["exit_code"], said["name"]) == (code, code, "s")
    assert said.get("errors") == (["why"] if code else None)
    assert "of a library" in out.err
