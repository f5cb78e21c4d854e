"""How far one driver goes: up to 1,000 nodes and 10,000 trials at once, in virtual time.

    python tests/benchmarks/scale.py [--nodes 10,100,1000] [--trials N] [--searcher NAME]
                                     [--tracking sqlite,server,off] [--output FILE.json]

Real are driver, searcher, scheduler, judge, retention, live line, the study log on disk and the
tracking process with MLflow, on a SQLite file or behind an MLflow server (HTTP, on this machine).
Made up are the trials: their curves (``tests/fake_runner.py``), how long they take, which of them
fail (1 in 50), and the machines, which run ten trials each, are lost now and then and come back
(``tests/virtual_cluster.py``). Ray is not in it: ``machinery.py`` measures that.

A report is what a trial says of an epoch; those up to the next rung travel together, in one result.
Printed for each size, in a fresh process each:

- reports/s and results/s from the first to the last of them, by the clock, and reports/s of the
  driver's processor time, the making up of trials included in all; the worst tenth of the study;
- milliseconds, median and 99th percentile: a suggestion, a decision of the scheduler, an event
  into the log, into the views; all of a result, all of handing out a trial;
- peak resident memory of driver and tracker; how long after the last result MLflow was complete.

At the end records, trials in the log and runs in MLflow have to be equally many, and none open.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measured import ROOT, keep, machine, table

sys.path.append(str(ROOT / "tests"))

PER_NODE = 10
# Always an adapter, and so a learning rate: without one most suggestions would soon be known.
CONFIG = {"epochs": "9", "space.adapter": "[lora, dora]"}
SIZES = {10: 2_000, 100: 10_000, 1_000: 25_000}
"""Nodes, and trials in all."""
TRACKING = ("sqlite", "server", "off")


class Clock:
    """Durations of calls by name, in milliseconds; what a timed call calls in turn is in both."""

    def __init__(self) -> None:
        self.taken: dict[str, array[float]] = {}

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, timed."""
        taken = self.taken.setdefault(name, array("f"))

        def timing(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args)
            finally:
                taken.append(1e3 * (time.perf_counter() - began))

        return timing

    def figures(self) -> dict[str, tuple[float, float, float]]:
        """By name median, 99th percentile and sum in seconds."""
        return {
            name: (*map(float, np.percentile(taken, [50, 99])), float(np.sum(taken)) / 1e3)
            for name, taken in self.taken.items()
            if len(taken)
        }


def per_second(at: array[float]) -> tuple[float, float]:
    """Over all of it, and over the worst tenth."""
    tenths = [len(part) / np.ptp(part) for part in np.array_split(np.array(at), 10)]
    return len(at) / (at[-1] - at[0]), float(min(tenths))


def study(nodes: int, trials: int, uri: str, searcher: str | None) -> dict[str, Any]:
    """One study in the current folder."""
    from fake_runner import FakeRunner
    from virtual_cluster import Machines, VirtualCluster

    from study.config import load_config
    from study.events import Closed
    from study.log import EventLog
    from study.store.storage import Storage
    from study.tracking import Tracker

    overrides = {**CONFIG, "trials": str(trials)} | ({"searcher": searcher} if searcher else {})
    config = load_config(ROOT / "study/configs/digits.yaml", overrides)
    machines = Machines(nodes, PER_NODE)
    runner = FakeRunner(config, concurrency=machines.places, fails=fails)
    storage = Storage.open(os.path.abspath("results/scale"))
    with EventLog(storage) as log:
        for event in runner.log:
            log.append(event)
        tracker = Tracker(storage, "scale", uri) if uri else None
        clock, reports, results = real(runner, log, storage)
        before = time.process_time()
        cluster = VirtualCluster(runner, machines).run()
        ended, busy = time.perf_counter(), time.process_time() - before
        memory = peak_memory()
        log.append(Closed(time.time(), "exit 0", 1.0))
    found: dict[str, Any] = {"nodes": nodes, "trials": trials, "at once": cluster.most_at_once}
    found |= {"lost": cluster.lost, "reports": len(reports), "seconds": reports[-1] - reports[0]}
    found["reports/s"], found["worst tenth"] = per_second(reports)
    found["results/s"], _ = per_second(results)
    found |= {"driver's CPU s": busy, "reports/CPU s": len(reports) / busy}
    found |= {"ms": clock.figures(), "driver GB": memory}
    state = runner.state
    found |= {"ended": len(state.ended), "open": len(state.interrupted())}
    found["log GB"] = os.path.getsize(storage.path("log.jsonl")) / 1e9
    if tracker:
        summary = tracker.finish(timeout=7200.0)
        if summary.error:
            raise SystemExit(str(summary))
        found |= {"runs": summary.runs, "MLflow after": time.perf_counter() - ended}
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        found["tracker's CPU s"] = children.ru_utime + children.ru_stime
        found["tracker GB"] = children.ru_maxrss / 1e6
    return found


def fails(trial: Any) -> bool:
    """One in fifty, always the same."""
    return bool(trial.lr and int(1e9 * trial.lr) % 50 == 0)


def real(runner: Any, log: Any, storage: Any) -> tuple[Clock, array[float], array[float]]:
    """Give the driver what a study gives it, timed; when reports and results come."""
    from study.events import Reported
    from study.keeping.retention import Retention
    from study.origin import origin
    from study.terminal.live import Live

    clock, reports, results = Clock(), array("d"), array("d")
    driver, config, state = runner.driver, runner.config, runner.state
    plan = driver.plan
    driver.plan = replace(plan, origin=partial(origin, plan.origin().fingerprint, {}, "cpu"))
    retention = Retention(storage, state, plan.aims, config.margin, runner.demands)
    live = Live(state, config.trials, config.task.objective, config.task.chance)
    append, on_result = log.append, driver.on_result

    def logged(event: Any) -> None:
        append(event)
        if isinstance(event, Reported):
            reports.append(time.perf_counter())

    def answered(tune_id: str, result: Any) -> bool:
        results.append(time.perf_counter())
        return bool(on_result(tune_id, result))

    driver.log = log
    driver.views = (retention, live)
    log.append = clock.timed("log", logged)
    retention.put = clock.timed("retention", retention.put)  # type: ignore[method-assign]
    live.put = clock.timed("live", live.put)  # type: ignore[method-assign]
    state.apply = clock.timed("state", state.apply)
    runner.search.ask = clock.timed("suggestion", runner.search.ask)
    runner.search.put = clock.timed("telling", runner.search.put)
    rungs = driver._judge.rungs
    rungs.on_report = clock.timed("scheduler", rungs.on_report)
    driver.on_result = clock.timed("result", answered)
    driver.next = clock.timed("handing out", driver.next)
    return clock, reports, results


def peak_memory() -> float:
    """Of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def runs_of(database: Path) -> dict[str, int]:
    """Runs of trials by their status, from MLflow's own tables."""
    query = (
        "SELECT status, COUNT(*) FROM runs JOIN tags USING (run_uuid)"
        " WHERE tags.key = 'paretune.trial' AND lifecycle_stage = 'active' GROUP BY status"
    )
    with sqlite3.connect(database) as tables:
        return dict(tables.execute(query))


def measure(nodes: int, trials: int, tracking: str, searcher: str | None) -> dict[str, Any]:
    """A study in a process and a folder of its own, and what stands in MLflow after it."""
    with tempfile.TemporaryDirectory() as folder, served(folder, tracking) as uri:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        words = [sys.executable, str(Path(__file__).resolve())]
        words += ["--one", json.dumps([nodes, trials, uri, searcher])]
        answer = Path(folder, "answer.json")
        done = subprocess.run([*words, "--output", str(answer)], cwd=folder, env=env)
        if done.returncode:
            raise SystemExit(done.returncode)
        found: dict[str, Any] = {"tracking": tracking, **json.loads(answer.read_text())}
        if tracking != "off":
            found["MLflow"] = runs_of(Path(folder, "server.db"))
    check(found)
    return found


def check(found: dict[str, Any]) -> None:
    """Nothing is missing and nothing is open."""
    runs, ended = found.get("MLflow", {}), found["ended"]
    if found["open"] or (runs and (sum(runs.values()) != ended or "RUNNING" in runs)):
        raise SystemExit(f"{ended} trials ended, {found['open']} are open; MLflow's runs: {runs}")


@contextmanager
def served(folder: str, tracking: str) -> Iterator[str]:
    """The tracking URI; empty for no tracking."""
    from mlflow_server import MlflowServer

    if tracking != "server":
        yield f"sqlite:///{folder}/server.db" if tracking == "sqlite" else ""
        return
    server = MlflowServer(folder)
    server.start()
    try:
        yield server.uri
    finally:
        server.kill()


def rows(found: list[dict[str, Any]]) -> list[list[str]]:
    """A column a study."""
    names = [name for name in found[0] if name not in ("ms", "MLflow")]
    lines = [["", *(f"{one['nodes']} nodes, {one['tracking']}" for one in found)]]
    lines += [[name, *(shown(one.get(name)) for one in found)] for name in names[2:]]
    for part in found[0]["ms"]:
        cells = ["{:.3g} ({:.3g})".format(*one["ms"].get(part, (0.0, 0.0))[:2]) for one in found]
        lines.append([f"ms, {part}", *cells])
    return lines


def shown(value: Any) -> str:
    """A cell."""
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if value else "-"


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default=",".join(map(str, SIZES)))
    parser.add_argument("--trials", type=int, help="default: 2,000, 10,000 and 25,000")
    parser.add_argument("--tracking", default="sqlite", help=", ".join(TRACKING))
    parser.add_argument("--searcher", help="default: the config's")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        keep(given.output, study(*given.one))
        return
    where = machine()
    found = [
        measure(nodes, given.trials or SIZES.get(nodes, 20 * nodes), tracking, given.searcher)
        for tracking in given.tracking.split(",")
        for nodes in map(int, given.nodes.split(","))
    ]
    print(table(rows(found)))
    print(f"{where['cores']} cores, load before: {where['load_before']:.1f}")
    keep(given.output, {"machine": where, "studies": found})


if __name__ == "__main__":
    main()
