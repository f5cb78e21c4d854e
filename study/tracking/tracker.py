"""The driver's side: start the tracking process, tell it when to end. Never raises into a study."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from study.lease import process_name
from study.storage import Storage

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The tracker itself tries again, and must notice meanwhile that the study ended.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


@dataclass(frozen=True)
class Summary:
    """What the tracker did: runs in the store, trials it could not log and why.

    ``seconds`` is how long writing the trials' runs took.
    """

    runs: int = 0
    missing: int = 0
    error: str | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        """One sentence for people."""
        if self.error is None:
            return f"MLflow: {self.runs} runs are up to date"
        what = f"{self.missing} trials are missing" if self.missing else "it is incomplete"
        return f"MLflow: {what}: {self.error}; resuming the study logs them"


class Tracker:
    """Keeps MLflow in step with the log of the study in ``storage`` until :meth:`finish`.

    It reads the log by itself, in another process: the study neither waits for MLflow nor fails
    with it, and what was not logged is logged by the next tracker of the study.
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
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._problem: str | None = None
        self._start()

    def finish(
        self,
        status: str = "FINISHED",
        front: Iterable[str] = (),
        metrics: Mapping[str, float] | None = None,
        timeout: float = 120.0,
    ) -> Summary:
        """Bring MLflow up to the log's end, close all runs, end the process.

        Call it after the log was closed. ``status`` is MLflow's: FINISHED, FAILED or KILLED, of the
        study's run; ``front`` the trial ids whose runs are marked and get their artifact. A store
        that fails is tried again for a quarter of ``timeout`` seconds.
        """
        last = {
            "status": status,
            "front": list(front),
            "metrics": dict(metrics or {}),
            "patience": timeout / 4,
        }
        summary = self._ask(last, timeout)
        if summary is None and self._process is not None and self._process.poll() is not None:
            self._start()  # it died on the way; a new one finds what is there
            summary = self._ask(last, timeout)
        if summary is None:
            summary = Summary(error=self._problem or f"no end within {timeout:g} s")
        self.close()
        return summary

    def close(self) -> None:
        """End the process without waiting for what is left. Open runs are closed as KILLED."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin:
                process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
        if self._errors:
            self._errors.close()

    def _start(self) -> None:
        self.close()
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
                env=_ENVIRONMENT | dict(os.environ),
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
