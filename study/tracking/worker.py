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
import threading
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from mlflow.exceptions import MlflowException

from analysis.load import RUNS
from analysis.masking import masked
from study.events import Ended, Event, Inherited, Reported, Started, Verified
from study.follow import Follower
from study.state import OPEN, StudyState
from study.store.storage import Storage
from study.tracking.client import Client
from study.tracking.closing import show_end, show_view
from study.tracking.links import links
from study.tracking.mirror import MOST_AT_ONCE, Mirror
from study.tracking.stored import NotTaken

POLL_SECONDS = 2.0
BEAT_SECONDS = 60.0
EXIT_SECONDS = 5.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds between tries at a store that fails
MOST_A_STEP = 16 * MOST_AT_ONCE  # trials; then the log is read again
MOST_REFUSED = 10  # trials in a row of work; then the others wait, too


class Waits:
    """Seconds to wait before another try: longer after each failure, and no two trackers alike."""

    def __init__(self, random: Random | None = None) -> None:
        self._random, self._next = random or Random(), FIRST_WAIT

    def reset(self) -> None:
        """It worked."""
        self._next = FIRST_WAIT

    def next(self) -> float:
        """It failed."""
        wait, self._next = self._next, min(2 * self._next, LONGEST_WAIT)
        return wait * self._random.uniform(0.5, 1.0)


class Worker:
    """One study's state on one side, its runs on the other.

    What waits for the store are numbers of trials, however much happened in them meanwhile.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        client: Callable[[str], Client] = Client,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings, self._client, self._sleep = settings, client, sleep
        self._storage = Storage.open(settings["storage"])
        self._follower, self._state = Follower(self._storage), StudyState()
        self._mirror: Mirror | None = None
        self._behind: dict[int, None] = {}  # numbers of trials whose runs are not up to date
        self._viewed = False
        self._at_once = MOST_AT_ONCE
        self._orphaned = threading.Event()
        self._waits = Waits()
        self._error: str | None = None
        self._beaten = time.monotonic()
        self._busy = 0.0
        self._links: dict[str, str] | None = None

    def run(self) -> dict[str, Any] | None:
        """Work until the study ends; None if it died, else what was done."""
        messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(messages,), daemon=True).start()
        while True:
            done = self.step()
            wait = POLL_SECONDS if not self._behind else 0.0
            try:
                last = messages.get(timeout=wait if done else self._waits.next())
            except queue.Empty:
                continue
            if last is not None:
                return self.finish(last)
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

    def step(self) -> bool:
        """Bring MLflow nearer to the log; False if the store or the log fails for now."""
        try:
            self._read()
            if not self._state.opened:
                return True
            if self._mirror is None:
                self._mirror, self._viewed = self._connect(), False
            if time.monotonic() - self._beaten > BEAT_SECONDS:
                self._mirror.beat()
                self._beaten = time.monotonic()
            self._catch_up(self._mirror)
            self._show_links(self._mirror)
            self._viewed = self._viewed or show_view(*self._study(self._mirror))
        except Exception as error:  # whatever a store raises: it is tried again, and told
            self._failed(error)
            return False
        self._error = None
        self._waits.reset()
        return True

    def _failed(self, error: Exception) -> None:
        self._error = masked(f"{type(error).__name__}: {error}".splitlines()[0])
        code = getattr(error, "error_code", None)
        if isinstance(error, NotTaken) or code == "RESOURCE_DOES_NOT_EXIST":
            self._mirror = None  # perhaps another store: what it holds is looked up
            self._behind = dict.fromkeys(self._state.trials)

    def _catch_up(self, mirror: Mirror) -> None:
        """Many trials at once, but few after a failure: then some get through between two.

        Those that have ended come first: who is far behind writes them once, not piece by piece.
        """
        began, refused = time.monotonic(), list[MlflowException]()
        left = sorted(self._behind, key=lambda number: self._state.trials[number].phase in OPEN)
        del left[MOST_A_STEP:]
        while left and not self._orphaned.is_set() and len(refused) < MOST_REFUSED:
            size, self._at_once = self._at_once, 1  # unless all goes well
            now, left = left[:size], left[size:]
            wrong = mirror.sync([self._state.trials[n] for n in now], self._state.verifications)
            self._at_once = min(2 * size, MOST_AT_ONCE)
            for number in now:
                del self._behind[number]
            self._behind |= dict.fromkeys(wrong)  # the others need not wait for these
            refused += wrong.values()
            if len(wrong) < len(now):
                self._waits.reset()
        self._busy += time.monotonic() - began
        if refused:
            raise refused[0]

    def _show_links(self, mirror: Mirror) -> None:
        found = links(mirror, self._state, self._settings["uri"])
        if found is not None and found != self._links:
            self._storage.write_text(RUNS, json.dumps(found, indent=1) + "\n")
            self._links = found

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
        client = self._client(settings["uri"])
        mirror = Mirror(client, settings["name"], self._state.study_id, settings["owner"])
        mirror.reconcile(settings["params"])
        return mirror

    def _study(self, mirror: Mirror) -> tuple[Mirror, StudyState, Storage, str]:
        return mirror, self._state, self._storage, self._settings["name"]

    def finish(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """Bring MLflow up to the log's end and close the runs.

        A store that fails is given up after ``patience`` seconds in which nothing was got done.
        """
        began, left = time.monotonic(), len(self._behind)
        while not self._close(last) and time.monotonic() - began < last["patience"]:
            self._sleep(self._waits.next())
            if len(self._behind) < left:
                began = time.monotonic()
            left = len(self._behind)
        return {
            "runs": self._mirror.runs if self._mirror else 0,
            "missing": len(self._behind),
            "error": self._error,
            "seconds": round(self._busy, 3),
            "page": self._mirror.pages.runs if self._mirror else "",
        }

    def _close(self, last: Mapping[str, Any]) -> bool:
        while (done := self.step()) and self._behind:
            pass
        if not done or self._mirror is None:
            return self._mirror is None and self._error is None
        try:
            show_end(*self._study(self._mirror), last)
        except Exception as error:  # as in step
            self._failed(error)
            return False
        return True


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
