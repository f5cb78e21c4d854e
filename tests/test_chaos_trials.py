"""Workers and drivers of a real study are killed at random moments, and nothing is lost.

``PARETUNE_CHAOS_KILLS`` says how often: a few by default, dozens for an hour's run.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import processes
import pytest
from studies import command, essences, run, state

from clusters.derived import PATIENCE
from study import log
from study.events import Cause, Ended, Reported, Retried, Started
from study.store.storage import Storage
from study.tracking.mirror import TRIAL

KILLS = int(os.environ.get("PARETUNE_CHAOS_KILLS", "4"))
START_SECONDS = 60  # of a worker, on a busy machine
LONG = 600 + 60 * KILLS  # seconds
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2 * LONG)]

# Trials of some seconds, each of which is kept several times; as many as it takes to be killed so
# often. Chance alone may hit one more often than a study in earnest would allow.
CONFIG = f"""
plugins: [steady.py]
task: steady
trials: {max(6, 2 * KILLS)}
epochs: 6
concurrency: 1
searcher: {{tpe: {{startup: 4}}}}
checkpoint_seconds: 0.3s
max_retries: 50
space:
  method: [{{rtn: {{bits: [2, 3, 4]}}}}, int1]
  adapter: [lora]
  init: [residual]
  rank: [1, 2, 3, 4]
  optimizer: [adam, sgd]
"""
STEADY = '''
"""Digits, at a pace at which a trial can be killed half-way."""
import time

from trainables.tasks import TASKS
from trainables.tasks.digits import Digits


@TASKS.register("steady")
class Steady(Digits):
    """See the module."""

    def loss(self, outputs, labels):
        time.sleep(0.01)
        return super().loss(outputs, labels)
'''
TRACKING = ("--tracking-uri", "sqlite:///mlflow.db")


def folder(path: Path) -> Path:
    path.mkdir()
    (path / "steady.py").write_text(STEADY)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Where the study ran that nobody disturbs."""
    at = folder(tmp_path_factory.mktemp("chaos") / "whole")
    done = run(at, "--name", "whole", *TRACKING, config=CONFIG, timeout=LONG)
    assert done.returncode == 0, done.stderr
    return at


@pytest.fixture(scope="module")
def undisturbed(whole):
    return essences(state(whole, "whole"))


def start(at: Path, *options: str, config: str = CONFIG) -> subprocess.Popen[bytes]:
    said = (at / "said.txt").open("ab")
    return subprocess.Popen(
        command(at, *options, *TRACKING, config=config), cwd=at, stdout=said, stderr=said
    )


def events(at: Path, name: str) -> list:
    return log.read(Storage.open(at / "results" / name))


def counted(at: Path, name: str, kind: type) -> int:
    return sum(isinstance(e, kind) for e in events(at, name))


def told(at: Path) -> str:
    return (at / "said.txt").read_text()[-4000:]


def check_nothing_is_lost(at: Path, name: str, undisturbed) -> None:
    found = state(at, name)
    assert not found.interrupted()
    assert essences(found) == undisturbed
    assert not list((at / "results" / name / "checkpoints").glob("*.safetensors"))
    client = mlflow.MlflowClient(f"sqlite:///{at}/mlflow.db")
    runs = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], max_results=50_000
    )
    assert {r.info.status for r in runs} <= {"FINISHED", "FAILED"}  # none is left open
    of_trials = [r.data.tags[TRIAL] for r in runs if TRIAL in r.data.tags]
    assert sorted(of_trials) == sorted(t.trial_id for t in found.ended)


def test_workers_killed_at_random_moments_cost_no_trial(tmp_path, whole, undisturbed):
    at, chance = folder(tmp_path / "a"), random.Random(1)
    # Moments of the study, not of the clock: a fast machine is not at its end before the last of
    # them, and a slow one gets to the next. One that is due at once finds a worker starting.
    moments = sorted(chance.choices(range(1, counted(whole, "whole", Reported) // 2), k=KILLS))
    process = start(at, "--name", "s")
    deadline = time.monotonic() + LONG

    def until(true: Callable[[], bool]) -> None:
        while not true():
            assert process.poll() is None, told(at)
            assert time.monotonic() < deadline, told(at)
            time.sleep(0.1)

    def trial_workers() -> list[int]:
        workers = processes.named(process.pid, processes.TRIAL)
        return chance.sample(workers, len(workers))

    until(lambda: counted(at, "s", Ended) > 0)  # kills before may look as if no worker could start
    for moment in moments:
        until(lambda moment=moment: counted(at, "s", Reported) >= moment)
        time.sleep(chance.uniform(0.0, 2.0))
        until(lambda: any(processes.kill(p) for p in trial_workers()[:1]))
    assert process.wait(LONG) == 0, told(at)
    retried = [e for e in events(at, "s") if isinstance(e, Retried)]
    assert 0 < len(retried) <= KILLS
    assert {e.cause for e in retried} <= {Cause.WORKER, Cause.NODE}
    check_nothing_is_lost(at, "s", undisturbed)


def test_a_driver_killed_at_random_moments_loses_nothing(tmp_path, undisturbed):
    at, chance, kept = folder(tmp_path / "a"), random.Random(2), {}
    below: dict[int, str] = {}
    for kills in range(KILLS):
        process = start(at, "--name", "s", *(["--resume"] if kills else []))
        before, deadline = len(events(at, "s")), time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if any(isinstance(e, Started) for e in events(at, "s")[before:]):
                break
            time.sleep(0.1)
        time.sleep(chance.uniform(0.0, 6.0))
        below |= processes.descendants(process.pid)
        process.kill()
        process.wait()
        # A worker that was starting notices last that its machine is gone.
        left = processes.left_of(below, 90, but=b"Agent")
        assert not left
        ended = {e.number: e for e in events(at, "s") if isinstance(e, Ended)}
        assert kept.items() <= ended.items()
        kept = ended
    process = start(at, "--name", "s", *(["--resume"] if KILLS else []))
    assert process.wait(LONG) == 0, told(at)
    # Ray's agents of a dead raylet try for a minute to tell its head, and go.
    assert not processes.left_of(below, 120)
    assert kept.items() <= {e.number: e for e in events(at, "s") if isinstance(e, Ended)}.items()
    check_nothing_is_lost(at, "s", undisturbed)


@pytest.mark.cluster
@pytest.mark.parametrize("notice", [False, True], ids=["without notice", "preempted"])
def test_a_machine_that_goes_away_stops_nothing_for_long(tmp_path, monkeypatch, notice):
    """The trial is handed on within 20 s, and goes on from its last kept epoch.

    When it reports again depends on how long a worker takes to start, which is printed. Ray Tune by
    itself would run a trial a second time whose machine was given notice.
    """
    from ray.cluster_utils import Cluster

    for name, value in PATIENCE.items():  # as nodes are started by --cluster
        monkeypatch.setenv(name, value)
    at = folder(tmp_path / "a")
    config = CONFIG.replace("epochs: 6", "epochs: 40").replace(
        f"trials: {max(6, 2 * KILLS)}", "trials: 1"
    )
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
        process = start(at, "--name", "s", "--address", cluster.address, config=config)
        before = _far_in_a_trial(process, at)
        (busy,) = (node for node in nodes if _runs_a_trial(node))
        if notice:
            _give_notice(cluster.address, busy.node_id)
        killed = time.time()
        cluster.remove_node(busy, allow_graceful=False)
        gap = _seconds_to_next_report(process, at, before, killed)
        process.terminate()
        process.wait(60)
    finally:
        cluster.shutdown()
    found = events(at, "s")
    (retried,) = (e for e in found if isinstance(e, Retried))
    assert retried.cause is Cause.NODE
    after = [e.report.epochs_done for e in found[found.index(retried) :] if isinstance(e, Reported)]
    print(f"\nnoticed after {retried.at - killed:.1f} s")
    (again,) = (e.at - killed for e in found[found.index(retried) :] if isinstance(e, Started))
    print(f"reports again after {gap:.1f} s, from epoch {after[0]} of {len(before)} reported")
    assert after[0] > len(before) - 10  # one is kept at most every 0.3 s, or every step of 1 s
    print(f"handed on after {again:.1f} s")
    assert again < 20
    assert gap < START_SECONDS + again


def _give_notice(address: str, node_id: str, seconds: int = 3) -> None:
    """As a cloud's agent does before it takes a spot machine away."""
    words = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address]
    words += ["--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    words += ["--reason-message", "spot", "--deadline-remaining-seconds", str(seconds)]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    time.sleep(seconds)


def _far_in_a_trial(process, at: Path) -> list[int]:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        found = events(at, "s")
        number = next((e.number for e in reversed(found) if isinstance(e, Started)), None)
        mine = [
            e.report.epochs_done for e in found if isinstance(e, Reported) and e.number == number
        ]
        if len(mine) > 10:
            return mine
        time.sleep(0.1)
    pytest.fail(f"no trial got far: {told(at)}")


def _runs_a_trial(node) -> bool:
    (raylet,) = node.all_processes["raylet"]
    return bool(processes.named(raylet.process.pid, processes.TRIAL))


def _seconds_to_next_report(process, at: Path, before: list[int], killed: float) -> float:
    while time.time() < killed + 120 and process.poll() is None:
        found = events(at, "s")
        lost = [i for i, e in enumerate(found) if isinstance(e, Retried)]
        if lost and any(isinstance(e, Reported) for e in found[lost[0] :]):
            return time.time() - killed
        time.sleep(0.1)
    pytest.fail(f"the trial did not go on: {told(at)}")
