"""What it costs that nothing is lost: the log's price, and how fast a large study comes back.

    python tests/benchmarks/survival.py [--finished 1000] [--trials 200] [--runs 5] [--output FILE]

- log: medians in milliseconds of one append, of a study's events as they come, on the disk of the
  current folder (forced to it once a second, in a thread); beside it, encoding alone;
- throughput: steady trials/s of a study of ``idle_task.py`` in which trials train next to nothing,
  with the log and with one that forgets, ``--runs`` each in turn, in fresh processes without
  MLflow; the ratio is of pairs;
- resume: seconds from a log of ``--finished`` ended trials, curves made up, to the first new
  suggestion: lease, log, state, files, rungs, searcher told; imports left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measured import ROOT, keep, machine, options, spread, table

sys.path.append(str(ROOT / "tests"))

STUDY = """
task: digits
trials: %d
epochs: 20
space:
  method: [{rtn: {bits: [2, 3, 4, 8], group_size: [0, 16]}}, int1, ternary]
  adapter: [none, lora]
  rank: [1, 2, 4]
  optimizer: [{adam: {lr: {low: 0.001, high: 0.03}}}, {sgd: {lr: {low: 0.01, high: 0.3}}}]
"""


class Forgetful:
    """In place of the study log: takes events, writes none."""

    events: tuple[Any, ...] = ()
    remarks: tuple[str, ...] = ()

    def __init__(self, *args: Any) -> None:
        self.ends: list[float] = []

    def append(self, event: Any) -> None:
        from study.events import Ended

        if isinstance(event, Ended):
            self.ends.append(event.at)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Forgetful:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def throughput(kind: str, trials: int) -> float:
    """Steady trials/s of the search in the current folder."""
    from machinery import _NoTracker

    from study import log, session
    from study.config import make_config
    from study.events import Ended
    from study.store.storage import Storage
    from study.study import Study

    forgetful = Forgetful()
    session.Tracker = _NoTracker  # type: ignore[assignment, misc]
    session.Session._freeze = lambda *args: None  # type: ignore[method-assign]
    session.Session._verify = lambda *args: None  # type: ignore[method-assign]
    if kind == "without":
        session.EventLog = lambda storage: forgetful  # type: ignore[assignment, misc]
    config = make_config(
        {
            "plugins": [str(Path(__file__).with_name("idle_task.py"))],
            "task": "idle",
            "trials": trials,
            "epochs": 4,
            "scheduler": "fifo",
            "searcher": "random",
            "space": {"method": ["int1"], "init": ["zeros"], "adapter": ["lora"], "rank": [1]},
        }
    )
    Study(config, name="timed", quiet=True).run()
    events = log.read(Storage.open("results/timed"))
    ends = forgetful.ends or [e.at for e in events if isinstance(e, Ended)]
    return (len(ends) - 1) / (max(ends) - min(ends))


def made_study(trials: int) -> list[Any]:
    """The events of a study so long, that still has trials to go."""
    from fake_runner import FakeRunner

    from study.config import parse_config

    return list(FakeRunner(parse_config(STUDY % trials)).run().log)


def appends(events: list[Any]) -> dict[str, float]:
    """Medians in ms of appending an event, and of making its line."""
    from study.log import EventLog, to_line
    from study.store.storage import Storage

    took, lines = [], []
    with tempfile.TemporaryDirectory(dir=".") as folder, EventLog(Storage.open(folder)) as log:
        for event in events:
            at = time.perf_counter()
            to_line(event)
            middle = time.perf_counter()
            log.append(event)
            lines.append(1e3 * (middle - at))
            took.append(1e3 * (time.perf_counter() - middle))
    slow = statistics.quantiles(took, n=100)[98]
    return {
        "append": statistics.median(took),
        "slowest in 100": slow,
        "line alone": statistics.median(lines),
    }


def resume(events: list[Any], trials: int) -> float:
    """Seconds to the first new suggestion."""
    from fake_runner import FakeRunner

    from study.config import parse_config
    from study.keeping.retention import missing
    from study.log import EventLog
    from study.store.storage import Storage

    config = parse_config(STUDY % (trials + 10))
    config.search_space()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        with EventLog(Storage.open(folder)) as log:
            for event in events:
                log.append(event)
        began = time.perf_counter()
        with EventLog(Storage.open(folder)) as log:
            again = FakeRunner(config, events=log.events)
            missing(again.state, Storage.open(folder))
            answer = again.driver.next("first")
            took = time.perf_counter() - began
    if not isinstance(answer, dict) or answer["number"] < trials:
        raise SystemExit(f"expected a new trial, got {answer}")
    return took


def apart(kind: str, trials: int) -> float:
    """:func:`throughput` in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        env = {**os.environ, "PARETUNE_CACHE": folder, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, str(Path(__file__).resolve()), kind, str(trials)]
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """See the module."""
    if len(sys.argv) == 3 and sys.argv[1] in ("with", "without"):
        return print(json.dumps(throughput(sys.argv[1], int(sys.argv[2]))))
    given = options(__doc__, finished=1000, trials=200, runs=5)
    events = made_study(given.finished)
    cost = appends(events)
    print(table([["ms", *cost], ["of the log", *(f"{v:.4f}" for v in cost.values())]]))
    back = [resume(events, given.finished) for _ in range(3)]
    print(f"\nresume of {given.finished} ended trials ({len(events)} events): {spread(back)} s")
    pairs = [[apart(kind, given.trials) for kind in ("with", "without")] for _ in range(given.runs)]
    ratios = [kept / forgotten for kept, forgotten in pairs]
    sides = [spread([pair[i] for pair in pairs]) for i in range(2)]
    print(f"steady trials/s with the log {sides[0]}, without {sides[1]}, ratio {spread(ratios)}")
    data = {"machine": machine(), "log": cost, "resume": back, "throughput": pairs}
    keep(given.output, data)
    return None


if __name__ == "__main__":
    main()
