"""The README's main command, timed from outside.

    python tests/benchmarks/default_study.py [--runs 3] [--trials 120] [--output FILE.json]

Runs ``python -m study.run`` in a fresh folder with its own MLflow store and an empty cache, so that
the dense network is trained too. Measures seconds from the command to its end, where they went (by
the times in the study log), trials a second, and the peak memory of the command's process tree: the
proportional set size (PSS, shared pages counted once) of all its processes together, each 0.2 s.
About 2 minutes a run on 2 cores.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from measured import command, keep, machine, options, spread, table

from study import log
from study.events import Closed, Ended, Opened, Started, Verified
from study.store.storage import Storage

EVERY = 0.2  # seconds between two looks at the memory
TIMES = ("whole command", "until it opens", "until the first trial", "search",
         "verification and report", "MLflow and exit")  # fmt: skip


def used(process: psutil.Process) -> int:
    """PSS of a process and all below it, bytes. Those that end meanwhile count nothing."""

    def one(member: psutil.Process) -> int:
        try:
            return int(member.memory_full_info().pss)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            return 0

    try:
        return sum(map(one, [process, *process.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return 0


def watched(words: list[str], folder: Path, env: dict[str, str]) -> tuple[float, float, int]:
    """Run a command: when it began and ended, and the peak memory of its process tree."""
    began, peak, over = time.time(), 0, threading.Event()
    with (folder / "printed.txt").open("w") as printed:
        running = subprocess.Popen(words, cwd=folder, env=env, stdout=printed, stderr=printed)

        def watch() -> None:
            nonlocal peak
            root = psutil.Process(running.pid)
            while not over.wait(EVERY):
                peak = max(peak, used(root))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = running.wait()
        ended = time.time()
        over.set()
        watcher.join()
    if code:
        raise SystemExit((folder / "printed.txt").read_text())
    return began, ended, peak


def measure(trials: int) -> dict[str, Any]:
    """One run of the command."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        env = {**os.environ, "PARETUNE_CACHE": str(folder / "cache")}
        env.pop("MLFLOW_TRACKING_URI", None)
        words = [*command("study.run"), "--name", "timed", "--trials", str(trials)]
        began, ended, peak = watched(words, folder, env)
        found = dict(_from_log(log.read(Storage.open(str(folder / "results/timed"))), began, ended))
        return {**found, "peak memory, GB": peak / 1e9}


def _from_log(events: list[Any], began: float, ended: float) -> Iterator[tuple[str, float]]:
    opened = next(e.at for e in events if isinstance(e, Opened))
    first = next(e.at for e in events if isinstance(e, Started))
    ends = [e for e in events if isinstance(e, Ended)]
    last, closed = ends[-1].at, next(e.at for e in events if isinstance(e, Closed))
    spans = (ended - began, opened - began, first - opened, last - first, closed - last)
    yield from zip(TIMES, (*spans, ended - closed), strict=True)
    yield "trials run, baselines included", len(ends)
    yield "trials/s", len(ends) / (last - first)
    yield "verified points", sum(isinstance(e, Verified) for e in events)


def main() -> None:
    """See the module."""
    given = options(__doc__, runs=3, trials=120)
    where = machine()
    runs = [measure(given.trials) for _ in range(given.runs)]
    rows = [[f"median of {given.runs} (extremes)", "seconds unless said"]]
    print(table([*rows, *([name, spread([r[name] for r in runs])] for name in runs[0])]))
    print(f"{where['cores']} cores, load before: {where['load_before']:.1f}")
    keep(given.output, {"machine": where, "runs": runs})


if __name__ == "__main__":
    main()
