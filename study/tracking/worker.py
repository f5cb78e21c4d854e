"""The tracking process: follows a study's log and keeps MLflow in step with it.

``python -m study.tracking.worker`` with settings as a JSON line on standard input; a second line
asks it to finish, and is answered with one line. The end of the input without it means that the
study died.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import threading
import time
from typing import Any

from study.events import Ended, Event, Inherited, Reported, Started, Verified
from study.follow import Follower
from study.state import StudyState
from study.storage import Storage, StorageError
from study.tracking.mirror import Mirror

POLL_SECONDS = 2.0
BEAT_SECONDS = 60.0
EXIT_SECONDS = 5.0


class Worker:
    """One study's state on one side, its runs on the other."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._storage = Storage.open(settings["storage"])
        self._follower, self._state = Follower(self._storage), StudyState()
        self._mirror: Mirror | None = None
        self._behind: dict[int, None] = {}  # numbers of trials whose runs are not up to date
        self._orphaned = threading.Event()
        self._error: str | None = None
        self._beaten = time.monotonic()
        self._busy = 0.0

    def run(self) -> dict[str, Any] | None:
        """Work until the study ends; None if it died, else what was done."""
        messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(messages,), daemon=True).start()
        wait = POLL_SECONDS
        while True:
            wait = POLL_SECONDS if self._step() else min(2 * wait, 30.0)
            try:
                last = messages.get(timeout=wait)
            except queue.Empty:
                continue
            if last is not None:
                return self._finish(last)
            if self._mirror:
                self._mirror.abandon()
            return None

    def _listen(self, messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        line = sys.stdin.readline()
        if line:
            messages.put(json.loads(line))
            sys.stdin.readline()  # returns at the end of the input
            time.sleep(EXIT_SECONDS)
        else:
            self._orphaned.set()
            messages.put(None)
            time.sleep(EXIT_SECONDS)
        os._exit(1)  # nobody waits for us, and a store that hangs must not keep us

    def _step(self) -> bool:
        """Bring MLflow up to the log; False if the store or the log fails for now."""
        try:
            self._read()
            if not self._state.opened:
                return True
            if self._mirror is None:
                self._mirror = self._connect()
            if time.monotonic() - self._beaten > BEAT_SECONDS:
                self._mirror.beat()
                self._beaten = time.monotonic()
            self._catch_up(self._mirror)
        except Exception as error:  # whatever a store raises: it is tried again, and told
            self._error = f"{type(error).__name__}: {error}".splitlines()[0]
            return False
        self._error = None
        return True

    def _catch_up(self, mirror: Mirror) -> None:
        began = time.monotonic()
        for number in list(self._behind):
            if self._orphaned.is_set():
                return
            trial = self._state.trials[number]
            mirror.sync(trial, self._state.verifications.get(trial.trial_id))
            del self._behind[number]
        self._busy += time.monotonic() - began

    def _read(self) -> None:
        for event in self._follower.poll():
            self._state.apply(event)
            if (number := self._concerned(event)) is not None:
                self._behind[number] = None

    def _concerned(self, event: Event) -> int | None:
        if isinstance(event, Inherited | Started | Reported | Ended):
            return event.number
        if isinstance(event, Verified):
            wanted = event.verification.trial_id
            return next((t.number for t in self._state.ended if t.trial_id == wanted), None)
        return None

    def _connect(self) -> Mirror:
        settings = self._settings
        mirror = Mirror(settings["uri"], settings["name"], self._state.study_id, settings["owner"])
        mirror.reconcile(settings["params"])
        return mirror

    def _finish(self, last: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        while not self._close(last) and time.monotonic() - began < last["patience"]:
            time.sleep(1.0)
        return {
            "runs": self._mirror.runs if self._mirror else 0,
            "missing": len(self._behind),
            "error": self._error,
            "seconds": round(self._busy, 3),
        }

    def _close(self, last: dict[str, Any]) -> bool:
        if not self._step() or self._mirror is None:
            return self._mirror is None and self._error is None
        try:
            with tempfile.TemporaryDirectory() as folder:
                front = last["front"]
                names = {i: f"artifacts/{i}.safetensors" for i in front}
                self._mirror.mark_front(
                    front, {i: self._fetch(n, folder) for i, n in names.items() if self._has(n)}
                )
                if self._state.frozen:
                    self._mirror.show_seeds(self._state.frozen)
                reports = [f"report/{name}" for name in self._storage.list("report")]
                files = [n for n in ["study.json", *reports] if self._has(n)]
                paths = [self._fetch(name, folder) for name in files]
                self._mirror.finish(last["status"], last["metrics"], paths)
        except Exception as error:  # as in _step
            self._error = f"{type(error).__name__}: {error}".splitlines()[0]
            return False
        return True

    def _has(self, name: str) -> bool:
        try:
            return self._storage.size(name) > 0
        except StorageError:
            return False

    def _fetch(self, name: str, folder: str) -> str:
        """A path on this machine with the file's content."""
        if self._storage.is_local:
            return self._storage.path(name)
        path = os.path.join(folder, os.path.basename(name))
        with open(path, "wb") as file:
            file.write(self._storage.read_bytes(name))
        return path


def main() -> int:
    """Entry point."""
    if hasattr(os, "nice"):
        os.nice(5)  # trials go first
    answer, sys.stdout = sys.stdout, sys.stderr  # MLflow prints
    summary = Worker(json.loads(sys.stdin.readline())).run()
    if summary is None:
        return 1
    print(json.dumps(summary), file=answer, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
