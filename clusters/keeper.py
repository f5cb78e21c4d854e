"""On the head of a cluster: keeps MLflow's server running, and ends a cluster that nobody uses.

Runs alone, from a file that was copied there: standard library only. ``python keeper.py
--idle-seconds N --command SHELL [--mlflow PORT --store URI --artifacts URI]``. A cluster is idle
while Ray's job server names no job that waits or runs, and, where it does not answer, while no
process of a study runs. After so long the command runs; it is to end the machines.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

FOLDER = Path.home() / ".paretune"
PID = FOLDER / "keeper.pid"
TOKEN = Path.home() / ".ray" / "auth_token"
BUSY = ("PENDING", "RUNNING")
EVERY = 5.0  # seconds
STUDY = r"-m study\.remote\.job"  # in the command line of a study that a job runs
# MLflow's server would start processes for work of its own, which nobody here asks for.
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


class Idle:
    """For how long nothing was asked of a cluster."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._since = seconds, clock, clock()

    def over(self, busy: bool) -> bool:
        """Whether it was long enough, with what is seen now."""
        if busy:
            self._since = self._clock()
        return self._clock() - self._since >= self._seconds


def busy(port: int = 8265) -> bool:
    """Whether a job waits or runs, by Ray's job server."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/jobs/")
    if TOKEN.is_file():
        request.add_header("Authorization", f"Bearer {TOKEN.read_text().strip()}")
    try:
        with urllib.request.urlopen(request, timeout=EVERY) as answer:
            jobs = json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):
        return study_runs()
    return any(job.get("status") in BUSY for job in jobs)


def study_runs() -> bool:
    """Whether a study's own process is there, whatever became of the job server."""
    words = ["pgrep", "-u", str(os.getuid()), "-f", "--", STUDY]
    return subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode == 0


class Server:
    """MLflow's server as a process of this one, started again when it ends."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start it if it does not run."""
        if self._command and (self._process is None or self._process.poll() is not None):
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, env={**os.environ, **NO_JOBS}
            )

    def end(self) -> None:
        """End it and its workers."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()


def mlflow_command(port: int, store: str, artifacts: str) -> list[str]:
    """On loopback, artifacts through the server, so that clients need no rights of their own."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", store, "--artifacts-destination", artifacts),
    ]


def end_other() -> None:
    """End the keeper that runs here, if one does; return when it is gone, its server with it."""
    try:
        other = int(PID.read_text())
        mine = b"keeper.py" in Path(f"/proc/{other}/cmdline").read_bytes()
    except (OSError, ValueError):
        mine = False
    if mine:
        os.kill(other, signal.SIGTERM)
        for _ in range(150):
            if not Path(f"/proc/{other}").exists():
                break
            time.sleep(0.1)


def main() -> None:
    """Watch until the cluster is idle for too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--end", action="store_true", help="only end the keeper that runs here")
    parser.add_argument("--idle-seconds", type=float, default=float("inf"))
    parser.add_argument("--command", default="true")
    parser.add_argument("--mlflow", type=int, default=0, metavar="PORT")
    parser.add_argument("--store", default="")
    parser.add_argument("--artifacts", default="")
    given = parser.parse_args()
    end_other()
    if given.end:
        return
    FOLDER.mkdir(exist_ok=True)
    PID.write_text(str(os.getpid()))
    wanted = mlflow_command(given.mlflow, given.store, given.artifacts) if given.mlflow else []
    server, idle = Server(wanted), Idle(given.idle_seconds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while not idle.over(busy()):
            server.keep()
            time.sleep(EVERY)
        print(f"idle for {given.idle_seconds:g} s: {given.command}", flush=True)
    finally:
        server.end()
    subprocess.run(given.command, shell=True, check=False)


if __name__ == "__main__":
    main()
