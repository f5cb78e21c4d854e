"""How much memory one training step takes: the largest trial of a study, on its largest batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainables.attempt import Attempt
from trainables.hardware.devices import RESIDENT, pick, total_memory
from trainables.hardware.memory import release
from trainables.record import Trial
from trainables.splits import Inputs, Split
from trainables.tasks.base import Prepared, Task


@dataclass(frozen=True)
class Peak:
    """What a training step takes of a card, in bytes.

    ``taken`` by its process, with CUDA's context, the allocator's reserve and room for splits that
    are kept on the card; of ``total``. ``error`` says why nothing was measured.
    """

    taken: int = 0
    total: int = 0
    error: str | None = None


def measure(task: Task, data: Prepared, trial: Trial) -> Peak:
    """One epoch of one step on this process's card, with all that goes before and after it."""
    device = pick("cuda")
    attempt = rehearse(task, data, trial, device)
    outcome, found = attempt.outcome, _card(device)
    attempt.drop()
    release()
    return Peak(error=outcome.error) if outcome.failed else found


def rehearse(task: Task, data: Prepared, trial: Trial, device: torch.device) -> Attempt:
    """The trial on one batch of each split, the largest; ended."""
    train = _Largest(data.train, max(1, trial.batch_size))
    validation = _Largest(data.validation, task.eval_batch_size)
    few = replace(data, train=train, validation=validation)
    attempt = Attempt(task, few, replace(trial, epochs=min(1, trial.epochs)), _Nowhere(), device)
    while not attempt.finished:
        attempt.advance()
    return attempt


def _card(device: torch.device) -> Peak:
    """What this process takes, the only one on the card for now."""
    free, total = torch.cuda.mem_get_info(device)
    context = total - free - torch.cuda.memory_reserved(device)
    resident = int(2 * RESIDENT * total_memory(device))
    return Peak(torch.cuda.max_memory_reserved(device) + context + resident, total)


class _Largest(Split):
    """The largest batch of a split: of its first and its last, where the extremes are."""

    def __init__(self, split: Split, size: int) -> None:
        batches = list(split.order(size))
        ends = [batches[0], batches[-1]] if len(batches[-1]) == len(batches[0]) else batches[:2]
        self.split, self.rows = split, max(ends, key=lambda rows: _nbytes(split.inputs(rows)))
        self.labels = split.labels[self.rows]

    @property
    def digest(self) -> str:
        return f"{self.split.digest}[{self.rows[0]}:{len(self.rows)}]"

    def inputs(self, rows: Tensor) -> Inputs:
        return self.split.inputs(self.rows[rows])

    def order(self, size: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        yield from torch.arange(len(self)).split(size)  # type: ignore[no-untyped-call]


def _nbytes(inputs: Inputs) -> int:
    tensors = [inputs] if isinstance(inputs, Tensor) else inputs.values()
    return sum(tensor.nbytes for tensor in tensors)


class _Nowhere:
    """A shelf for what nobody wants."""

    def write_bytes(self, name: str, data: bytes) -> None:
        pass
