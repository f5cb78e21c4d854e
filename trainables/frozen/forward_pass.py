"""One pass of a frozen network over a split, as fast as this machine does it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from trainables.frozen.cuts import TOLERANCE, Capture
from trainables.hardware.sending import send
from trainables.splits import Inputs, Split, map_inputs

LOG = logging.getLogger("paretune")

SIZES = (16, 32, 64, 128, 256)
"""Batch sizes tried on the first batches, which count."""
DEFAULT = 32
WORTH = 16
"""A size is tried while so many batches of it are left: else the trial costs what it saves."""

COMPILE_SECONDS, COMPILE_GAIN = 30.0, 0.07
"""What compiling a ResNet-18 took on 2 cores, and what of a folded network's time it saved."""

CPU = torch.device("cpu")

Sink = Callable[[Tensor, Inputs, dict[str, Tensor]], None]


class Pace(NamedTuple):
    """How a pass went: examples, seconds, and the batch size it settled on."""

    rows: int
    seconds: float
    size: int

    @property
    def rate(self) -> float:
        """Examples a second."""
        return self.rows / max(self.seconds, 1e-9)


@contextmanager
def all_cores() -> Iterator[None]:
    """Within the block torch computes on every core that this process may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def optimised(module: nn.Module, sample: Inputs) -> nn.Module:
    """The module with BatchNorm folded into convolutions, channels last; a copy where it changes.

    A network without convolutions, that cannot be traced as a whole, or that comes out further
    than the tolerance from itself on the sample, is given back as it is.
    """
    if not any(isinstance(m, nn.Conv2d) for m in module.modules()) or not isinstance(
        sample, Tensor
    ):
        return module
    folded = _folded(module)
    if folded is None:
        return module
    folded = folded.to(memory_format=torch.channels_last)
    expected, found = module(sample), folded(_channels_last(sample))
    return folded if _close(found, expected) else module


def _folded(module: nn.Module) -> nn.Module | None:
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(module)
    except Exception as error:  # a model's own code, run on stand-ins, may raise anything
        LOG.debug("BatchNorm is not folded: %s", error)
        return None


def _close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(
        (found[key] - value).abs().max() <= TOLERANCE * max(1.0, value.abs().max().item())
        for key, value in expected.items()
        if value.is_floating_point() and value.numel()
    )


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    first = next(iter(module.parameters()), None)
    return CPU if first is None else first.device


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Within the block a GPU computes float32 in float32, as the CPU that reads the values does."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before


def _channels_last(inputs: Inputs) -> Inputs:
    def turned(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    return map_inputs(turned, inputs)


class _Sizes:
    """Chooses the batch size: each candidate once, larger ones while they get faster."""

    def __init__(self, total: int) -> None:
        self.left = total
        self.rates: dict[int, float] = {}
        self.warm = False
        self.waiting = [size for size in SIZES if size * WORTH <= total]

    @property
    def next(self) -> int:
        """The size of the batch to fetch next."""
        if self.waiting:
            return self.waiting[0] if self.warm else DEFAULT
        return self.best

    @property
    def best(self) -> int:
        return max(self.rates, key=self.rates.__getitem__) if self.rates else DEFAULT

    @property
    def settled(self) -> bool:
        """Whether the choice is made."""
        return self.warm and not self.waiting

    def ran(self, size: int, work: int, seconds: float) -> None:
        """Take note of a batch: ``work`` is what was computed, in numbers of input."""
        self.left -= size
        if not self.warm:
            self.warm = True
        elif self.waiting and size == self.waiting[0]:
            self.rates[size] = work / max(seconds, 1e-9)
            self.waiting.pop(0)
            if self.rates[size] < 0.9 * max(self.rates.values()):
                self.waiting.clear()


def run(capture: Capture, split: Split, sink: Sink, device: torch.device = CPU) -> Pace:
    """Compute every row of a split, all views of it, and hand the values to ``sink``.

    The next batch is fetched in a thread while this one is computed: decoding overlaps computing.
    ``sink`` gets rows (b,), inputs and values by name.
    """
    total = split.views * len(split)
    compute, began = _Compute(capture, total, device), time.perf_counter()
    fetching = ThreadPoolExecutor(1, thread_name_prefix="fetch")
    with fetching as pool, torch.inference_mode(), _exact(device):
        pending: tuple[Tensor, Future[Inputs]] | None = None
        for rows in _pieces(split, compute.sizes):
            following = (rows, pool.submit(split.inputs, rows))
            if pending is not None:
                compute.batch(pending[0], pending[1].result(), sink)
            pending = following
        if pending is not None:
            compute.batch(pending[0], pending[1].result(), sink)
    return Pace(total, time.perf_counter() - began, compute.sizes.best)


def _pieces(split: Split, sizes: _Sizes) -> Iterator[Tensor]:
    """Rows in the split's own order, in pieces of the size wanted at the time."""
    waiting = torch.arange(0)
    for view in range(split.views):
        for rows in split.order(SIZES[-1]):
            waiting = torch.cat([waiting, rows + view * len(split)])
            while len(waiting) >= sizes.next:
                piece, waiting = waiting[: sizes.next], waiting[sizes.next :]
                yield piece
    while len(waiting):
        yield waiting[: sizes.next]
        waiting = waiting[sizes.next :]


class _Compute:
    """Runs batches: optimised from the first one on, compiled once that is repaid."""

    def __init__(self, capture: Capture, total: int, device: torch.device) -> None:
        self.capture, self.sizes, self.device = capture, _Sizes(total), device
        self.run: Capture | None = None
        self.compiled: Capture | None = None
        self.folded = False
        self.seconds = 0.0

    def batch(self, rows: Tensor, inputs: Inputs, sink: Sink) -> None:
        """Compute one batch and hand it on."""
        inputs = send(inputs, self.device)
        if self.run is None:
            self.run = self._start(inputs)
        began = time.perf_counter()
        values = self._values(self.run, inputs, len(rows))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds = time.perf_counter() - began
        work = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
        self.sizes.ran(len(rows), work.numel(), self.seconds)
        sink(rows, inputs, values)

    def _start(self, inputs: Inputs) -> Capture:
        if not isinstance(self.capture, nn.Module):
            return self.capture
        found: Capture = optimised(self.capture, map_inputs(lambda t: t[:2], inputs))
        self.folded = found is not self.capture
        return found

    def _values(self, run: Capture, inputs: Inputs, count: int) -> dict[str, Tensor]:
        if self.folded:
            inputs = _channels_last(inputs)
        if count != self.sizes.best or not self.sizes.settled:
            return run(inputs)
        if self.compiled is None:
            self.compiled = self._compiled(run, inputs)
        return self.compiled(inputs)

    def _compiled(self, run: Capture, inputs: Inputs) -> Capture:
        """Compiled, where the rest of the pass is long enough to pay for it; else as it is."""
        seconds_left = self.sizes.left * self.seconds / self.sizes.best
        if not isinstance(run, fx.GraphModule) or seconds_left * COMPILE_GAIN < COMPILE_SECONDS:
            return run
        compiled: Capture = torch.compile(run)
        try:
            found, expected = compiled(inputs), run(inputs)
        except Exception as error:  # no compiler here, or one that fails on this network
            LOG.info("the pass goes on without torch.compile: %s", str(error).partition("\n")[0])
            return run
        return compiled if _close(found, expected) else run
