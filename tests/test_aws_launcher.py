"""``ray up`` and ``ray down`` with our AWS file, as commands, against a moto server.

What the launcher would run on its nodes goes to stand-ins of ssh and rsync, which write it down.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("moto")

from tests.aws_account import REGION, SOURCE, VARIABLES, furnish, text  # noqa: E402

UBUNTU = "case $- in *i*) ;; *) return;; esac\nexport LATE=1\n"


def setup_line(word: str) -> str:
    """The one setup command of the file that has this word."""
    (line,) = [
        each for each in yaml.safe_load(SOURCE.read_text())["setup_commands"] if word in each
    ]
    return str(line)


@pytest.mark.parametrize("times", [1, 2])
def test_the_path_is_there_for_rays_shells_and_for_plain_ssh(tmp_path: Path, times: int) -> None:
    (tmp_path / ".bashrc").write_text(UBUNTU)
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for _ in range(times):
        subprocess.run(["bash", "-c", setup_line("bashrc")], env=environment, check=True)
    said = 'echo "$PATH $RAY_AUTH_MODE"'
    ours = f"{tmp_path}/paretune/bin:"
    for words in (
        ["bash", "--login", "-c", "-i", f"source ~/.bashrc; {said}"],  # Ray's launcher
        ["bash", "-c", f". ~/.bashrc; {said}"],  # sshd's bash reads the file for a command
    ):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(ours)
        assert done.stdout.strip().endswith(" token")
    assert (tmp_path / ".bashrc").read_text().count("paretune/bin") == 1


@pytest.mark.slow
def test_a_worker_without_a_head_ends_itself_and_one_with_a_raylet_does_not(tmp_path: Path) -> None:
    """Its loop in fast motion: 30 s are nothing, a minute of raylet first."""
    (line,) = [
        each
        for each in yaml.safe_load(SOURCE.read_text())["worker_start_ray_commands"]
        if "shutdown" in each
    ]
    tools = {
        "sleep": "exec /bin/sleep 0.01",
        "pgrep": f'echo x >> {tmp_path}/asked; [ "$(wc -l < {tmp_path}/asked)" -le 50 ]',
        "sudo": f'echo "$(wc -l < {tmp_path}/asked) $*" >> {tmp_path}/ended; kill $PPID',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    here = line.replace("/tmp/paretune-alone", str(tmp_path / "lock")).replace("nohup setsid ", "")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", f"{here} wait"], env=environment, timeout=60, check=False)
    assert (tmp_path / "ended").read_text() == "70 shutdown -h now\n"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An account in a process that others reach; the image's id."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0)
    moto.start()
    host, port = moto.get_host_and_port()
    there = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "HOME": str(tmp_path)}
    for name, value in {**VARIABLES, **there}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    yield furnish(tmp_path)
    moto.stop()


@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_up_takes_the_file_and_down_leaves_nothing(server: str, tmp_path: Path) -> None:
    import boto3

    lines = text().splitlines()
    source = tmp_path / "aws.yaml"
    source.write_text("\n".join(_pinned(line, server) for line in lines))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    said = _stand_ins(tmp_path / "bin", tmp_path / "said")

    _ray(tmp_path, "up", "-y", "--no-config-cache", str(source))
    ec2 = boto3.client("ec2", REGION)
    (head,) = _states(ec2)
    assert head == ("head", "running")
    commands = said.read_text()
    order = ["chmod 600", "uv venv", "sed -i", "ray[default]", "ray start --head"]
    found = [commands.index(word) for word in order]
    assert found == sorted(found)
    assert "--dashboard-host=127.0.0.1" in commands

    _ray(tmp_path, "down", "-y", str(source))
    assert _states(ec2) == [("head", "terminated")]


def _pinned(line: str, image: str) -> str:
    """Moto does not look up images by name."""
    return line.partition("resolve:ssm")[0] + image if "resolve:ssm" in line else line


def _stand_ins(folder: Path, said: Path) -> Path:
    folder.mkdir()
    for name in ("ssh", "rsync"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {said}\n')
        (folder / name).chmod(0o755)
    return said


def _ray(home: Path, *words: str) -> None:
    environment = {**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "ray.scripts.scripts", *words]
    done = subprocess.run(
        command, env=environment, cwd=home, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _states(ec2: object) -> list[tuple[str, str]]:
    found = ec2.describe_instances()["Reservations"]  # type: ignore[attr-defined]
    return [
        (
            next(tag["Value"] for tag in each["Tags"] if tag["Key"] == "ray-node-type"),
            each["State"]["Name"],
        )
        for reservation in found
        for each in reservation["Instances"]
    ]
