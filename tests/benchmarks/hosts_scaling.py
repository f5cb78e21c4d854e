"""One host of a cluster beside two: trials a second, asleep and at work.

    python tests/benchmarks/hosts_scaling.py [--trials 24] [--seconds 0.05]

Hosts are namespaces of this machine (``tests/hosts.py``), so trials that compute share its
processors: what they gain says little of two machines. Trials that sleep do not, and show what the
machinery leaves of a second host. Both by ``study.run --cluster``, the same trials each time; the
time from the first trial's start to the last one's end, without confirmations and verification.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import hosts as real
from remote_hosts import User, cluster_file

from study import log
from study.events import Ended, Started
from study.store.storage import Storage

CONFIG = """
plugins: [paced.py]
task: {task}
epochs: 4
trials: {trials}
seed: 3
searcher: random
scheduler: fifo
space: {{method: [rtn, int1, ternary], init: [zeros], adapter: [lora], rank: [1, 2, 4, 8]}}
"""
PACED = '''
"""Digits whose training steps take a time that is known."""
import time

from trainables.tasks import TASKS
from trainables.tasks.digits import Digits

SECONDS = {seconds}


@TASKS.register("asleep")
class Asleep(Digits):
    """Each step sleeps."""

    def loss(self, outputs, labels):
        time.sleep(SECONDS)
        return super().loss(outputs, labels)


@TASKS.register("at_work")
class AtWork(Digits):
    """Each step keeps a processor busy."""

    def loss(self, outputs, labels):
        end = time.thread_time() + SECONDS
        while time.thread_time() < end:
            pass
        return super().loss(outputs, labels)
'''


def rate(user: User, task: str, trials: int, at_once: int) -> float:
    """Trials a second of one study."""
    name = f"{task}-{at_once}"
    user.config.write_text(CONFIG.format(task=task, trials=trials))
    said = user.study(name, "--set", f"concurrency={at_once}", seconds=900)
    if said.code:
        raise SystemExit(said.text)
    events = [
        event
        for event in log.read(Storage.open(str(user.folder / "results" / name)))
        if isinstance(event, Started | Ended) and event.number >= 0
    ]
    ended = [event.at for event in events if isinstance(event, Ended)]
    return len(ended) / (max(ended) - min(event.at for event in events))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=48, help="few: start and tail count")
    parser.add_argument("--tasks", default="asleep,at_work")
    parser.add_argument("--seconds", type=float, default=0.05)
    given = parser.parse_args()
    if why := real.available():
        raise SystemExit(f"no hosts on this machine: {why}")
    with real.started(workers=2) as hosts, tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "scaling")
        place.mkdir()
        user = User(place, cluster_file(hosts, place))
        (place / "paced.py").write_text(PACED.format(seconds=given.seconds))
        for task in given.tasks.split(","):
            one, two = (rate(user, task, given.trials, at_once) for at_once in (1, 2))
            print(f"{task:8} one host {one:.3f} trials/s, two {two:.3f}: {two / one:.2f}x")
        user.run("--down")


if __name__ == "__main__":
    main()
