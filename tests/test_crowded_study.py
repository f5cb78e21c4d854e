"""A real study whose hungry trials run out of memory, and whose workers say how many threads."""

from __future__ import annotations

import pytest
from studies import run, state

from study import log
from study.events import Retried
from study.store.storage import Storage
from trainables.record import OUT_OF_MEMORY, Status

pytestmark = pytest.mark.timeout(300)

# Two trials at once, two threads each: what a study of one trial would be given on four cores.
CONFIG = """
plugins: [hungry.py]
task: hungry
trials: 5
epochs: 2
concurrency: 2
searcher: random
scheduler: fifo
resources: {cpus: CPUS}
space:
  method: [{rtn: {bits: [2, 3, 4], mode: symmetric, group_size: 0}}, int1]
  adapter: [lora]
  init: [zeros]
  rank: [1, 2]
  optimizer: [adam]
"""
HUNGRY = '''
"""Digits, with a loss for which rank 2 has no room."""
import os
import threading

import torch

from trainables.tasks import TASKS
from trainables.tasks.digits import Digits


@TASKS.register("hungry")
class Hungry(Digits):
    """See the module."""

    def forward(self, model, inputs):
        self.__dict__["ranks"] = {
            tuple(p.shape) for n, p in model.named_parameters() if "lora_A" in n
        }
        return super().forward(model, inputs)

    def loss(self, outputs, labels):
        if any(shape[0] == 2 for shape in self.__dict__["ranks"]):
            raise MemoryError("no room for rank 2")
        return super().loss(outputs, labels)

    def score(self, observed, labels):
        libraries = {os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")}
        return {
            **super().score(observed, labels),
            "threads": float(torch.get_num_threads()),
            "interop": float(torch.get_num_interop_threads()),
            "libraries": float(max(map(int, libraries))),
        }
'''


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1])
def test_a_study_goes_on_where_trials_have_no_room(tmp_path, cpus):
    (tmp_path / "hungry.py").write_text(HUNGRY)
    done = run(tmp_path, "--name", "crowded", config=CONFIG.replace("CPUS", str(cpus)))
    assert done.returncode == 0, done.stderr
    found = state(tmp_path, "crowded")
    hungry = [t for t in found.ended if t.trial.layers[0].rank == 2]
    assert hungry
    for trial in hungry:
        assert trial.record.outcome.status is Status.OUT_OF_MEMORY
        assert trial.record.outcome.cause == OUT_OF_MEMORY
        assert (trial.starts, trial.alone) == (2, True)
    others = [t for t in found.ended if t.trial.layers[0].rank != 2]
    assert others
    for trial in others:
        assert trial.starts == 1
        metrics = trial.record.outcome.metrics["val"]
        assert metrics["threads"] == metrics["interop"] == metrics["libraries"] == cpus
    assert not found.interrupted()
    assert " ".join(done.stderr.split()).count("it is run once more, alone") == len(hungry)
    events = log.read(Storage.open(tmp_path / "results" / "crowded"))
    assert sum(isinstance(e, Retried) for e in events) == len(hungry)


def test_more_than_this_machine_has_is_refused_before_anything_starts(tmp_path):
    config = "task: digits\nresources: {cpus: 4096}\n"
    refused = run(tmp_path, "--name", "large", config=config)
    assert refused.returncode == 2
    assert "small.yaml:2: resources: cpus: 4096 for a trial; this machine has" in refused.stderr
