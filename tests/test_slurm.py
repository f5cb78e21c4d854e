"""The batch script for Slurm, with stand-ins that run its steps as processes of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path("clusters/slurm.sh").resolve()
TOOLS = {
    "scontrol": "printf 'n1\\nn2\\nn3\\n'",
    # Options away, then the command, on the node that was named.
    "srun": """
        while [[ $1 == --* ]]; do case $1 in --nodelist=*) export NODE=${1#*=};; esac; shift; done
        if [ "$1" = hostname ]; then echo 10.0.0.1 fe80::1; else exec "$@"; fi""",
    "ray": """
        echo "$NODE $(stat -c %a "$RAY_AUTH_TOKEN_PATH") $RAY_AUTH_MODE $*" >> "$SAID/ray"
        trap 'echo "$NODE" >> "$SAID/ended"; exit 0' TERM
        while true; do sleep 0.02; done""",
    "python": """
        case "$*" in
          *secrets*) printf 0123456789abcdef;;
          "- "*) cat > /dev/null; echo "$*" > "$SAID/waited"
            until [ "$(wc -l < "$SAID/ray")" = "$3" ]; do sleep 0.02; done;;
          "-m study.run"*) echo "$*" > "$SAID/study"
            trap 'echo study >> "$SAID/ended"; exit 3' TERM
            for _ in $(seq "$STEPS"); do sleep 0.02; done; exit "$CODE";;
        esac""",
}


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """Where the stand-ins write what they were asked."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "said").mkdir()
    for name, body in TOOLS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path / "said"


def start(said: Path, code: int = 0, steps: int = 5) -> subprocess.Popen[bytes]:
    environment = {
        "PATH": f"{said.parent / 'bin'}:{os.environ['PATH']}",
        "SAID": str(said),
        "CODE": str(code),
        "STEPS": str(steps),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_SUBMIT_DIR": str(said.parent),
    }
    words = ["bash", str(SCRIPT), "--name", "two words", "--trials", "3"]
    return subprocess.Popen(words, env=environment)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_it_opens_with_its_command_and_its_price() -> None:
    text = lines(SCRIPT)
    assert text[1].startswith("# sbatch clusters/slurm.sh")
    assert "costs an hour" in text[3]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("code", [0, 2])
def test_it_starts_ray_everywhere_runs_the_study_and_ends_as_it_did(said: Path, code: int) -> None:
    assert start(said, code).wait(30) == code
    started = {line.split()[0]: line for line in lines(said / "ray")}
    assert set(started) == {"n1", "n2", "n3"}
    assert all(" 600 token start --block" in line for line in started.values())
    assert all("--num-cpus=8 --num-gpus=2" in line for line in started.values())
    assert "--head --node-ip-address=10.0.0.1 --port=20007" in started["n1"]
    assert all("--address=10.0.0.1:20007" in started[node] for node in ("n2", "n3"))
    assert lines(said / "waited") == ["- 10.0.0.1:20007 3"]
    assert lines(said / "study") == [
        "-m study.run --address 10.0.0.1:20007 --name two words --trials 3"
    ]
    assert lines(said / "ended") == ["n3", "n2", "n1"]
    assert list(said.parent.glob(".paretune-*")) == []


def test_before_its_time_is_over_the_study_writes_down_where_it_is(said: Path) -> None:
    process = start(said, steps=2000)
    end = time.monotonic() + 30
    while not (said / "study").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert lines(said / "ended") == ["study", "n3", "n2", "n1"]
    assert list(said.parent.glob(".paretune-*")) == []
