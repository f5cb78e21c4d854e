"""Passwords of a study's addresses, looked for in everything that a study writes, says and runs."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
import s3_server
from mlflow_server import MlflowServer
from studies import SMALL, command

from study import log
from study.events import Closed, Ended
from study.store.storage import Storage
from trainables.record import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STORE, TRACKING = "canary0fthestore", "canary0fmlflow"  # nothing else holds these words


@pytest.fixture(scope="module")
def ran() -> Iterator[tuple[Path, Storage, set[bytes], int]]:
    """A study on S3 with MLflow's server: its folder, its store, command lines seen, exit code."""
    # Short: Ray's sockets are below it, and a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="p") as made, s3_server.running() as store:
        folder = Path(made)
        server = MlflowServer(folder)
        server.start()
        uri = server.uri.replace("http://", f"http://user:{TRACKING}@")
        place = store.address("AKIDEXAMPLE", STORE)
        config = SMALL + f"storage: {place}\ntracking_uri: {uri}\n"
        config = config.replace("trials: 8", "trials: 4").replace("epochs: 6", "epochs: 2")
        said = folder / "said.txt"
        # Words of processes are looked at often, as `ps` would show them to anybody.
        with said.open("wb") as file:
            process = subprocess.Popen(
                command(folder, "--name", "s", config=config),
                cwd=folder,
                stdout=file,
                stderr=file,
                env={**os.environ, "RAY_TMPDIR": str(folder)},
            )
            lines = _command_lines(process)
        yield folder, Storage.open(place).sub("s"), lines, process.returncode
        server.signal(signal.SIGKILL)


def _command_lines(process: subprocess.Popen[bytes]) -> set[bytes]:
    seen: set[bytes] = set()
    deadline = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < deadline:
        for pid in (process.pid, *processes.descendants(process.pid)):
            seen.add(processes.command_line(pid))
        time.sleep(0.2)
    return seen


def test_a_study_on_an_object_store_runs_to_its_report(ran):
    folder, storage, _, code = ran
    assert code == 0, (folder / "said.txt").read_text()
    events = log.read(storage)
    assert isinstance(events[-1], Closed)
    ended = [e for e in events if isinstance(e, Ended)]
    assert {e.record.outcome.status for e in ended} <= {Status.COMPLETED, Status.STOPPED}
    assert len(ended) >= 4
    assert storage.exists("report/front.csv")
    assert storage.exists("records/records.parquet")


def test_no_command_line_holds_a_secret(ran):
    _, _, lines, _ = ran
    assert any(b"study.run" in line for line in lines)
    assert not [line for line in lines if _secrets_in(line)]


def test_no_file_of_a_study_holds_a_secret(ran):
    _, storage, _, _ = ran
    names = list(storage.sizes())
    assert len(names) > 5
    assert not [name for name in names if _secrets_in(storage.read_bytes(name))]


def test_what_it_says_and_what_mlflow_and_ray_keep_hold_no_secret(ran):
    folder, _, _, _ = ran
    files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    assert {"said.txt", "server.db", "raylet.out"} <= {p.name for p in files}
    config = folder / "small.yaml"  # the user's own
    assert _secrets_in(config.read_bytes()) == {STORE, TRACKING}
    assert not [p for p in files if p != config and _secrets_in(p.read_bytes())]


def _secrets_in(data: bytes) -> set[str]:
    return {word for word in (STORE, TRACKING) if word.encode() in data}
