"""``python -m study.doctor``: every check a line, everything that is wrong at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusters.check import Check
from clusters.kinds import KINDS
from study.doctor import main
from study.remote import looks

FILE = """
cluster_name: tiny
provider: {type: local, head_ip: 127.0.0.1, worker_ips: []}
auth: {ssh_user: somebody}
metadata: {study: {storage: /shared}}
"""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What the kind of cluster finds, for a test to fill; no host is asked."""
    found: list[Check] = []
    kind = type(KINDS["local"])
    monkeypatch.setattr(kind, "checks", lambda self, file: iter(found))
    return found


def run(tmp_path: Path, text: str = FILE, *words: str) -> tuple[int, str, str]:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    done = CliRunner().invoke(main, ["--cluster", str(path), *words])
    return done.exit_code, done.stdout, done.stderr


def test_all_is_well(tmp_path: Path, seen: list[Check]) -> None:
    seen.append(Check("host", "answers"))
    code, said, _ = run(tmp_path)
    lines = said.splitlines()
    assert code == 0
    assert all(line.startswith("ok    ") for line in lines)
    names = [line.split()[1].rstrip(":") for line in lines]
    assert names == ["file", "python", "packages", "package", "storage", "host"]


def test_a_failure_is_exit_code_2_and_a_warning_is_not(tmp_path: Path, seen: list[Check]) -> None:
    seen.append(Check("quota", problem="2 of 8", mend="ask for more", warning=True))
    code, said, _ = run(tmp_path)
    assert code == 0
    assert said.splitlines()[-1] == "warn  quota: 2 of 8; ask for more"
    seen.append(Check("key", problem="none", mend="make one"))
    code, said, _ = run(tmp_path)
    assert code == 2
    assert said.splitlines()[-1] == "FAIL  key: none; make one"


def test_json_says_the_same(tmp_path: Path, seen: list[Check]) -> None:
    seen.append(Check("key", problem="none", mend="make one"))
    code, said, _ = run(tmp_path, FILE, "--json")
    told = json.loads(said)
    assert code == 2
    assert told["ok"] is False
    assert told["checks"][-1] == {
        "name": "key",
        "found": "",
        "problem": "none",
        "mend": "make one",
        "warning": False,
        "failed": True,
    }


def test_unknown_keys_are_said_all_at_once_with_their_lines(tmp_path: Path) -> None:
    text = FILE.replace("storage:", "storages:") + "max_worker: 2\n"
    code, said, errors = run(tmp_path, text)
    assert (code, said) == (2, "")
    lines = errors.splitlines()
    assert len(lines) == 2
    assert any("c.yaml:5: metadata.study.storages: unknown key" in line for line in lines)
    assert any("c.yaml:6: max_worker: unknown key" in line for line in lines)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--cluster", str(tmp_path / "none.yaml")])
    assert done.exit_code == 2
    assert "none.yaml" in done.stderr


def test_a_study_that_asks_for_gpus_which_no_node_has(tmp_path: Path) -> None:
    text = """
cluster_name: a
max_workers: 1
head_node_type: head
provider: {type: gcp, project_id: p}
metadata: {study: {storage: "gs://b/s"}}
available_node_types:
  head: {node_config: {}, resources: {CPU: 0, GPU: 0}}
  cpu: {node_config: {}, resources: {CPU: 4, GPU: 0}}
"""
    study = tmp_path / "s.yaml"
    study.write_text("task: digits\nresources: {gpus: 1}\n")
    code, said, _ = run(tmp_path, text, "--config", str(study))
    assert code == 2
    assert any(line.startswith("FAIL  gpus") for line in said.splitlines())


def test_a_study_that_is_wrong_is_named(tmp_path: Path) -> None:
    study = tmp_path / "s.yaml"
    study.write_text("task: digits\ntrialz: 1\n")
    code, _, errors = run(tmp_path, FILE, "--config", str(study))
    assert code == 2
    assert "s.yaml:2" in errors


def test_another_python_than_here_is_told() -> None:
    from clusters.settings import Settings

    check = looks.python_check(Settings(python="3.19"))
    assert check.failed
    assert "3.19 on the nodes" in check.problem
    assert not looks.python_check(Settings()).failed


def test_an_extra_that_is_not_here_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from clusters import package
    from clusters.settings import Settings

    monkeypatch.setattr(package, "requirements", lambda extras: ["ray==2.60.0", "boto3>=1.35"])
    check = looks.packages_check(Settings(extras=("aws",)))
    assert check.warning
    assert "boto3>=1.35" in check.problem
    assert "paretune[aws]" in check.mend
