"""The training that makes a task's dense model, done once and then read from the cache."""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.splits import Inputs, Split

log = logging.getLogger(__name__)

WARMUP = 0.1  # of the steps
WEIGHT_DECAY = 0.01
LONGEST_GRADIENT = 1.0
EVERY = 60.0  # seconds between two lines of progress
WORTH_THREADS = 500_000  # parameters: below, threads wait for each other more than they work


@dataclass(frozen=True)
class Schedule:
    """AdamW, its rate up linearly over the first tenth of the steps, then down to 0."""

    epochs: int
    lr: float
    batch_size: int


def fit(
    model: nn.Module,
    forward: Callable[[Inputs], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    split: Split,
    schedule: Schedule,
    seed: int,
    threads: int = 0,
) -> None:
    """Train all of the model in place, dropout on; leaves it in eval mode.

    On all cores whatever the process is held to, a small model on one, unless told a number: it
    is part of :func:`recipe`, so that a machine makes the same weights each time.
    """
    with _alone(seed, threads or _threads(model)):
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), schedule.lr, weight_decay=WEIGHT_DECAY)
        steps = schedule.epochs * -(-len(split) // schedule.batch_size)
        ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, steps))
        order = torch.Generator().manual_seed(seed)
        said = time.monotonic()
        for epoch in range(schedule.epochs):
            for i, batch in enumerate(split.batches(schedule.batch_size, order)):
                value = loss(forward(batch.inputs), batch.labels)
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
                optimizer.step()
                ramp.step()
                if time.monotonic() - said > EVERY:
                    said = time.monotonic()
                    log.warning("epoch %d, batch %d: loss %.3f", epoch + 1, i + 1, value.item())
        model.eval()


def recipe() -> str:
    """What the trained weights depend on beside model, data and schedule: code and machine."""
    source = inspect.getsource(sys.modules[__name__])
    return f"{hashlib.sha256(source.encode()).hexdigest()}|{torch.__version__}|{_cores()}"


def _factor(step: int, steps: int) -> float:
    warm = max(1, round(WARMUP * steps))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def _threads(model: nn.Module) -> int:
    return _cores() if sum(p.numel() for p in model.parameters()) > WORTH_THREADS else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _alone(seed: int, own: int) -> Iterator[None]:
    """Own threads and random numbers; the process has its own back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(own)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
