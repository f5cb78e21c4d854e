"""What a trial costs when it trains next to nothing: ours beside Ray's stock MLflow callback.

    python tests/benchmarks/machinery.py [--runs 3] [--trials 200] [--loops 5] [--output FILE.json]

All loops search a learning rate with OptunaSearch over reused class trainables, as many at once as
there are cores, five reports a trial, every trial to its end:

- ours: a study of ``idle_task.py`` with log, artifacts and MLflow on SQLite; ours, asha: the same
  with the default scheduler, which stops trials early and so takes a Tune step a rung;
- ours, no MLflow: the same without the tracking process;
- stock: ``stock_loop.py``, ``tune.run`` over a trainable that only counts to five, with
  ``MLflowLoggerCallback`` on SQLite; stock, no MLflow: without it.

A trial of ours also compresses a network, trains an adapter and writes its file; its five reports
travel in one Tune result where no decision is due between them. Trials/s count from the first start
to the last end of a trial, and so hold the start of the workers; steady ones from the first end.
``MLflow complete`` is how long after that last end its last write was done; verification and report
lie between. Each loop runs in a fresh process. About 6 minutes a run on 2 cores, most of it stock;
``--loops 2`` runs only the first of each kind, in 2 minutes.
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

from measured import keep, machine, options, spread, table

LOOPS = ("ours", "stock", "ours, asha", "ours, no MLflow", "stock, no MLflow")
REPORTS = 5
CORES = len(os.sched_getaffinity(0))


def study(loop: str, trials: int) -> dict[str, float]:
    """A study in the current folder; times of its log."""
    from study import log, session
    from study.config import make_config
    from study.events import Ended, Reported, Started
    from study.store.storage import Storage
    from study.study import Study
    from study.tracking.tracker import Summary

    complete = 0.0
    finish = session.Tracker.finish

    def timed(tracker: Any, *args: Any, **kwargs: Any) -> Summary:
        nonlocal complete
        summary = finish(tracker, *args, **kwargs)
        complete = time.time()
        if summary.error:
            raise SystemExit(str(summary))
        return summary

    session.Tracker.finish = timed  # type: ignore[method-assign]
    if loop == "ours, no MLflow":
        session.Tracker = _NoTracker  # type: ignore[assignment, misc]
    config = make_config(
        {
            "plugins": [str(Path(__file__).with_name("idle_task.py"))],
            "task": "idle",
            "trials": trials,
            "epochs": REPORTS - 1,  # the first report comes before training
            "scheduler": "asha" if loop == "ours, asha" else "fifo",
            "tracking_uri": "sqlite:///mlflow.db",
            "space": {"method": ["int1"], "init": ["zeros"], "adapter": ["lora"], "rank": [1]},
        }
    )
    Study(config, name="timed", quiet=True).run()
    events = log.read(Storage.open("results/timed"))
    if failed := [e for e in events if isinstance(e, Ended) and e.record.outcome.error]:
        raise SystemExit(f"{len(failed)} trials failed: {failed[0].record.outcome.error}")
    ends = [e.at for e in events if isinstance(e, Ended)]
    starts = [e.at for e in events if isinstance(e, Started)]
    return {
        "trials": len(ends),
        "reports": sum(isinstance(e, Reported) for e in events),
        "trials/s": len(ends) / (max(ends) - min(starts)),
        "steady trials/s": (len(ends) - 1) / (max(ends) - min(ends)),
        "MLflow complete": max(0.0, complete - max(ends)),
    }


class _NoTracker:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def finish(self, *args: Any, **kwargs: Any) -> Any:
        from study.tracking.tracker import Summary

        return Summary()


def stock(loop: str, trials: int) -> dict[str, float]:
    """Ray Tune alone."""
    import stock_loop

    return stock_loop.run(trials, CORES, mlflow="no MLflow" not in loop)


def measure(loop: str, trials: int) -> dict[str, float]:
    """One loop in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PARETUNE_CACHE": folder, "OMP_NUM_THREADS": "1"}
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
        words = [sys.executable, str(Path(__file__).resolve()), loop, str(trials)]
        began = time.time()
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return {**found, "whole command": time.time() - began}


def main() -> None:
    """See the module."""
    if len(sys.argv) == 3 and sys.argv[1] in LOOPS:
        loop, trials = sys.argv[1], int(sys.argv[2])
        print(json.dumps((stock if "stock" in loop else study)(loop, trials)))
        return
    given = options(__doc__, runs=3, trials=200, loops=len(LOOPS))
    loops, where = LOOPS[: max(2, given.loops)], machine()
    # One after the other in turn, so that a busy minute of the machine meets all of them.
    runs = [{loop: measure(loop, given.trials) for loop in loops} for _ in range(given.runs)]
    names = list(runs[0]["ours"])
    cells = {loop: [spread([r[loop][name] for r in runs]) for name in names] for loop in loops}
    print(table([["", *names], *([loop, *row] for loop, row in cells.items())]))
    rates = {k: statistics.median(r[k]["trials/s"] for r in runs) for k in ("ours", "stock")}
    print(f"ours / stock, medians: {rates['ours'] / rates['stock']:.1f}")
    print(f"{where['cores']} cores, load before: {where['load_before']:.1f}; times in seconds")
    keep(given.output, {"machine": where, "runs": runs})


if __name__ == "__main__":
    main()
