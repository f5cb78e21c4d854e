"""A packed model beside the dense one, in one process: what a call takes, and what is kept."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from compression.artifact import deserialize
from compression.footprint import peak_memory, resident_bytes
from compression.kernels import ReadyWeight
from trainables.latency import timed_together
from trainables.splits import Inputs, Split
from trainables.tasks.base import Task

BATCHES = (1, 32)
DENSE, DECODED, PACKED = "dense", "decoded", "packed"


@dataclass(frozen=True)
class Spread:
    """The median of something measured ``repeats`` times, between its quartiles."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of two values or more."""
        low, median, high = statistics.quantiles(values, n=4)
        return cls(median, low, high, len(values))


@dataclass(frozen=True)
class Called:
    """A model called with ``batch`` examples.

    ``gain`` is the dense model's time over this one's, of calls that followed each other;
    ``peak_bytes`` what tensors hold at most during a call, those that the model keeps included.
    """

    batch: int
    milliseconds: Spread
    gain: Spread
    peak_bytes: int

    @property
    def verdict(self) -> str:
        """``faster`` or ``slower`` than dense where three calls of four say so, else ``alike``."""
        if self.gain.low > 1:
            return "faster"
        return "slower" if self.gain.high < 1 else "alike"


@dataclass(frozen=True)
class Form:
    """A model in memory: bytes that it keeps between calls, and what calls take."""

    resident_bytes: int
    calls: tuple[Called, ...]


@dataclass(frozen=True)
class Speed:
    """One file beside its dense model.

    ``forms`` are ``dense``, ``decoded`` (the file, its weights decoded once) and ``packed``;
    ``kernels`` how many layers each kernel computes.
    """

    file_bytes: int
    threads: int
    kernels: Mapping[str, int]
    forms: Mapping[str, Form]


@torch.inference_mode()
def measured(
    task: Task,
    dense: nn.Module,
    artifact: bytes,
    split: Split,
    batches: Sequence[int] = BATCHES,
    seconds: float = 1.0,
) -> Speed:
    """Time a file's model on the CPU, on torch's own threads, with nothing beside it.

    A batch larger than the split is cut to it. ``seconds`` for each batch.

    Raises:
        ArtifactError: the file is no model of this task.
    """
    models = {
        DENSE: dense.cpu().eval(),
        DECODED: deserialize(artifact, task.architecture()).eval(),
        PACKED: deserialize(artifact, task.architecture(), keep_packed=True).eval(),
    }
    kept = {name: resident_bytes(model) for name, model in models.items()}
    calls: dict[str, list[Called]] = {name: [] for name in models}
    for batch in dict.fromkeys(min(batch, len(split)) for batch in batches):
        inputs = split.inputs(torch.arange(batch))
        for name, called in _called(task, models, inputs, batch, kept, seconds).items():
            calls[name].append(called)
    ready = [part for part in models[PACKED].modules() if isinstance(part, ReadyWeight)]
    return Speed(
        len(artifact),
        torch.get_num_threads(),
        dict(Counter(part.kernel for part in ready)),
        {name: Form(kept[name], tuple(calls[name])) for name in models},
    )


def _called(
    task: Task,
    models: Mapping[str, nn.Module],
    inputs: Inputs,
    batch: int,
    kept: Mapping[str, int],
    seconds: float,
) -> dict[str, Called]:
    runs = {name: partial(task.forward, model, inputs) for name, model in models.items()}
    times = timed_together(runs, seconds)
    return {
        name: Called(
            batch,
            Spread.of(times[name]),
            Spread.of([d / t for d, t in zip(times[DENSE], times[name], strict=True)]),
            kept[name] + peak_memory(run),
        )
        for name, run in runs.items()
    }
