"""What methods and inits may know of the dense model: statistics on examples of the train split.

Taken once for all trials and kept in the cache by the hash of everything they depend on.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from compression.calibration import Calibration
from compression.collecting import POSITIONS, SINGLES, collect
from compression.rules import target_layers
from compression.stats import GradientStats, InputStats, LayerStats, Need
from trainables.frozen.identity import Unidentified, code_hash, task_text
from trainables.kept_statistics import Kept, find
from trainables.serial import digest
from trainables.splits import Batch
from trainables.tasks.base import Prepared, Task

FORMAT = 1
"""Part of every key: raised when statistics change their meaning."""
_PARTS: dict[str, type[Any]] = {"inputs": InputStats, "gradients": GradientStats}


def calibrated(data: Prepared, samples: int, seed: int) -> Prepared:
    """The data with calibration examples chosen: ``samples`` of train, or all if there are fewer.

    Their hash becomes part of the fingerprint, and so of every trial's identity.
    """
    n = len(data.train)
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:samples]
    # In the split's own order: it puts examples of like length together.
    rows = torch.cat([some[torch.isin(some, chosen)] for some in data.train.order(64)])
    name = digest([data.train.digest, str(rows.tolist())])
    fingerprint = replace(data.fingerprint, calibration=name)
    return replace(data, calibration=rows, fingerprint=fingerprint)


def examples(task: Task, data: Prepared) -> Calibration | None:
    """The calibration examples, as compression takes them; None where none were chosen."""
    if (rows := data.calibration) is None:
        return None
    train, loss = data.train, task.training_loss(data.train.labels)

    def batch(numbers: Tensor) -> Batch:
        return train.batch(rows[numbers])

    def forward(model: nn.Module, batch: Batch) -> Tensor:
        return task.forward(model, batch.inputs)

    return Calibration(
        count=len(rows),
        batch=batch,
        forward=forward,
        loss=lambda model, batch: loss(forward(model, batch), batch.labels),
        mask=_mask,
    )


def _mask(batch: Batch) -> Tensor | None:
    inputs = batch.inputs
    return None if isinstance(inputs, Tensor) else inputs.get("attention_mask")


@dataclass(frozen=True)
class Statistics(Mapping[str, LayerStats]):
    """Statistics by layer, read from their files when asked for. ``seconds`` is what they cost."""

    kept: tuple[Kept, ...] = ()

    @property
    def seconds(self) -> float:
        """Of taking them."""
        return sum(kept.seconds for kept in self.kept)

    def __getitem__(self, layer: str) -> LayerStats:
        if not any(layer in kept.layers for kept in self.kept):
            raise KeyError(layer)
        return _put_together(self.kept, layer)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(layer for kept in self.kept for layer in kept.layers))

    def __len__(self) -> int:
        return len(list(iter(self)))


@lru_cache(maxsize=4096)
def _put_together(kept: tuple[Kept, ...], layer: str) -> LayerStats:
    """Once a process: what is not finite is looked for each time that one is made."""
    parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for source in kept:
        for part, found in source.parts(layer).items():
            parts[part] |= found
    return LayerStats(*(kind(**parts[p]) if parts[p] else None for p, kind in _PARTS.items()))


def statistics(task: Task, data: Prepared, needs: Collection[Need]) -> Statistics:
    """Statistics of the task's target layers, taken first where the cache lacks them.

    Where the cache can't be written they are kept in this process alone.

    Raises:
        InvalidSetting: they are not finite, or too large; names the layer.
    """
    wanted = _wanted(needs)
    if not wanted or (calibration := examples(task, data)) is None:
        return Statistics()

    def take(need: Need) -> Kept:
        layers = target_layers(data.model, task.targets)
        started = time.perf_counter()
        found = collect(data.model, layers, {need}, calibration)
        return Kept.of(found, time.perf_counter() - started)

    key = _key(task, data)
    return Statistics(tuple(find(f"{key} {need}", partial(take, need)) for need in wanted))


def _wanted(needs: Collection[Need]) -> list[Need]:
    """One file each; other gradients bring their mean with them."""
    order: tuple[Need, ...] = ("inputs", "outputs", "samples", "gradients")
    found = [need for need in order if need in needs]
    return [n for n in found if n != "gradients" or not {"outputs", "samples"} & set(found)]


def _key(task: Task, data: Prepared) -> str:
    """All that statistics depend on: weights, what the model computes, examples, how many rows."""
    prints = [data.fingerprint.weights, data.fingerprint.calibration]
    code = _code(data.model)
    return " ".join([str(FORMAT), task_text(task), *prints, code, f"{POSITIONS} {SINGLES}"])


_codes: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def _code(model: nn.Module) -> str:
    """What the model computes; where that can't be told, a text that no other process has."""
    if model not in _codes:
        try:
            _codes[model] = code_hash(dict(model.named_modules()))
        except Unidentified:
            _codes[model] = uuid4().hex
    return _codes[model]
