"""How long one example takes a model as it ships, with nothing beside it."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from compression.artifact import deserialize, serialize
from compression.model import as_saved
from trainables.build import about, build
from trainables.record import Trial
from trainables.splits import Split
from trainables.tasks.base import Prepared, Task

WARM_UP, FEWEST, SECONDS = 3, 7, 0.1


@dataclass(frozen=True)
class Latency:
    """The median of so many ``repeats`` in ms, and between which quartiles they lie."""

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int


def timed(run: Callable[[], object], seconds: float = SECONDS) -> Latency:
    """Run something over and over, after a warm-up: :data:`FEWEST` times and ``seconds`` at least.

    The median: what else the machine does makes single runs longer, never shorter.
    """
    for _ in range(WARM_UP):
        run()
    found: list[float] = []
    while len(found) < FEWEST or sum(found) < seconds:
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    low, median, high = (1000 * quartile for quartile in statistics.quantiles(found, n=4))
    return Latency(median, low, high, len(found))


def timed_together(
    runs: Mapping[str, Callable[[], object]], seconds: float = SECONDS
) -> dict[str, list[float]]:
    """Milliseconds of each run, one of each in turn: what slows the machine down slows them all.

    After a warm-up :data:`FEWEST` turns, and as many more as ``seconds`` have room for, in random
    order: a run finds in the caches what the one before it left there.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(WARM_UP):
        for run in runs.values():
            run()
    begun, turns, order = time.perf_counter(), 0, list(runs.items())
    shuffle = random.Random(0).shuffle
    while turns < FEWEST or time.perf_counter() - begun < seconds:
        turns += 1
        shuffle(order)
        for name, run in order:
            at = time.perf_counter()
            run()
            found[name].append(1000 * (time.perf_counter() - at))
    return found


def model_latency(task: Task, model: nn.Module, split: Split) -> Latency:
    """Of the first example of a split, as a batch of one, on the CPU with torch's own threads."""
    inputs = split.inputs(torch.arange(1))
    model.eval()
    with torch.inference_mode():
        return timed(lambda: task.forward(model, inputs))


def trial_latency(task: Task, data: Prepared, trial: Trial) -> Latency:
    """Of what a trial would ship without any training: its file, loaded back.

    Raises:
        InvalidSetting, ArtifactError: the trial cannot be built, or saved, as it is asked.
    """
    model = build(task, data, trial)
    with as_saved(model):
        artifact = serialize(model, about(trial))
    return model_latency(task, deserialize(artifact, task.architecture()), data.validation)
