"""The driver's side: keep the tracking process alive, tell it when to end.

Never raises into a study.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

from study.store.lease import process_name
from study.store.storage import Storage

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
# The tracker itself tries again: it looks first what became of a request without an answer.
ALWAYS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
MOST_RESTARTS = 5
RESTART_SECONDS = 1.0  # before the first, twice as long before each other
NOTICE_SECONDS = 2.0


def environment() -> dict[str, str]:
    """In which MLflow's client is to run; the user's own settings count."""
    return ENVIRONMENT | dict(os.environ) | ALWAYS


def params_of_study(config: Mapping[str, Any]) -> dict[str, str]:
    """A study's config, as ``study.json`` has it, as the params of its run."""
    return {key: json.dumps(value) for key, value in config.items() if key != "space"}


@dataclass(frozen=True)
class Summary:
    """What the tracker did: runs in the store, trials it could not log and why.

    ``seconds`` is how long writing the trials' runs took. ``page`` is where MLflow's pages show
    them, '' if it takes no saved views; ``study`` is where the study stands.
    """

    runs: int = 0
    missing: int = 0
    error: str | None = None
    seconds: float = 0.0
    page: str = ""
    study: str = ""

    def __str__(self) -> str:
        """One sentence for people."""
        if self.error is None:
            return f"MLflow: {self.runs} runs are up to date"
        what = f"{self.missing} trials are missing" if self.missing else "it is incomplete"
        command = f"python -m study.sync {self.study}".rstrip()
        return f"MLflow: {what}: {self.error}; nothing is lost: {command} logs them later"


class Tracker:
    """Keeps MLflow in step with the log of the study in ``storage`` until :meth:`finish`.

    It reads the log by itself, in another process: the study neither waits for MLflow nor fails
    with it, and what was not logged is logged by the next tracker of the study. A process that
    dies is started again, some times.
    """

    def __init__(
        self, storage: Storage, name: str, uri: str, params: Mapping[str, str] | None = None
    ) -> None:
        """Start the process. ``params`` are shown at the study's own run."""
        self._settings = {
            "storage": storage.uri,
            "name": name,
            "uri": uri,
            "params": dict(params or {}),
            "owner": process_name(),
        }
        self._study = str(storage)
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._problem: str | None = None
        self.restarts = 0
        self._start()
        self._ending = threading.Event()
        self._guard = threading.Thread(target=self._keep_alive, daemon=True)
        self._guard.start()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process else None

    def finish(
        self,
        status: str = "FINISHED",
        front: Iterable[str] = (),
        timeout: float = 120.0,
        say: Callable[[str], None] = lambda line: None,
    ) -> Summary:
        """Bring MLflow up to the log's end, close all runs, end the process.

        Call it after the log was closed. ``status`` is MLflow's: FINISHED, FAILED or KILLED, of the
        study's run; ``front`` the trial ids whose runs are marked and get their artifact. It takes
        ``timeout`` seconds at most; a store that fails all the time is given up after a quarter.
        """
        self._let_go()
        last = {
            "status": status,
            "front": list(front),
            "patience": timeout / 4,
        }
        until = time.monotonic() + timeout
        notice = threading.Timer(
            NOTICE_SECONDS, say, [f"MLflow is behind; waiting for it, at most {timeout:g} s"]
        )
        notice.start()
        try:
            summary = self._ask(last, timeout)
            if summary is None and self._process is not None and self._process.poll() is not None:
                self._start()  # it died on the way; a new one finds what is there
                summary = self._ask(last, until - time.monotonic())
        finally:
            notice.cancel()
        if summary is None:
            summary = Summary(error=self._problem or f"no end within {timeout:g} s")
        self.close()
        return replace(summary, study=self._study)

    def close(self) -> None:
        """End the process without waiting for what is left. Open runs are closed as KILLED."""
        self._let_go()
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin:
                process.stdin.close()  # tells it that nobody waits
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._shut(process)

    def _shut(self, process: subprocess.Popen[str]) -> None:
        """Close what was open between a process that has ended and us."""
        for pipe in (process.stdin, process.stdout, self._errors):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()

    def _keep_alive(self) -> None:
        """Until the study ends: start the process again when it dies, each time after longer."""
        while not self._ending.wait(RESTART_SECONDS):
            process = self._process
            if process is None or process.poll() is None:
                continue
            self._problem = f"the tracker ended early: {self._last_words()}"
            if self.restarts == MOST_RESTARTS:
                return
            if self._ending.wait(RESTART_SECONDS * 2**self.restarts):
                return
            self.restarts += 1
            self._start()

    def _let_go(self) -> None:
        """From here on the process is not started again by itself."""
        self._ending.set()
        self._guard.join()

    def _start(self) -> None:
        if self._process:
            self._shut(self._process)
        self._process = None
        if not self._settings["storage"]:
            self._problem = "the study's storage has no URI that another process could open"
            return
        self._errors = tempfile.TemporaryFile("w+")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "study.tracking.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment(),
                start_new_session=True,  # Ctrl-C is for the study, which then calls finish
            )
        except OSError as error:
            self._problem = f"the tracker did not start: {error}"
            return
        self._say(self._settings)

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):  # it is gone; the missing answer tells
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _ask(self, message: Mapping[str, Any], timeout: float) -> Summary | None:
        process = self._process
        if process is None or process.stdout is None:
            return None
        self._say(message)
        answer: list[str] = []
        stdout = process.stdout
        reader = threading.Thread(target=lambda: answer.append(stdout.readline()), daemon=True)
        reader.start()
        reader.join(timeout)
        if reader.is_alive():
            process.kill()
            reader.join()
            self._problem = f"no end within {timeout:g} s"
            self._process = None
            return None
        if not answer or not answer[0]:
            process.wait()
            self._problem = f"the tracker ended early: {self._last_words()}"
            return None
        return Summary(**json.loads(answer[0]))

    def _last_words(self) -> str:
        if self._errors is None:
            return "unknown"
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else "it was killed"
