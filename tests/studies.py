"""Real studies run as a user runs them: by the command, in a folder of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from study import log
from study.events import Ended
from study.state import StudyState
from study.store.storage import Storage
from trainables.record import Record, canonical

SMALL = """# python -m study.run --config small.yaml
task: digits
trials: 8
epochs: 6
concurrency: 1
searcher: {tpe: {startup: 4}}
space:
  method: [{rtn: {bits: [2, 3, 4]}}, int1]
  adapter: [lora, none]
  init: [residual]
  rank: [1, 2]
  optimizer: [adam]
"""


def command(folder: Path, *options: str, config: str = SMALL) -> list[str]:
    """The study command on a config that is written to the folder."""
    (folder / "small.yaml").write_text(config)
    return [sys.executable, "-m", "study.run", "--config", "small.yaml", *options]


def run(
    folder: Path, *options: str, config: str = SMALL, timeout: float = 480
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(folder, *options, config=config),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def interrupt(folder: Path, name: str, number: signal.Signals, after: int) -> int:
    """Run a study, send it a signal once it began and ``after`` trials ended; its exit code."""
    process = subprocess.Popen(
        command(folder, "--name", name),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    storage = Storage.open(folder / "results" / name)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        events = log.read(storage)
        if events and sum(isinstance(e, Ended) for e in events) >= after:
            break
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(timeout=60)


def state(folder: Path, name: str) -> StudyState:
    """What the study's log says."""
    return StudyState(log.read(Storage.open(folder / "results" / name)))


def essence(record: Record) -> str:
    """A record without what differs between two equal runs: times, memory and origin."""
    outcome = record.outcome
    curve = tuple(replace(report, seconds=0.0) for report in outcome.curve)
    timeless = replace(outcome, seconds=None, peak_memory=None, curve=curve)
    return canonical(record.trial) + canonical(timeless)


def essences(study: StudyState) -> dict[int, tuple[str, str]]:
    """Phase and essence of every trial by number."""
    return {
        number: (trial.phase.value, essence(trial.record) if trial.record else "")
        for number, trial in study.trials.items()
    }
