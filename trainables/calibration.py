"""What methods and inits may know of the dense model: statistics on examples of the train split.

Taken once for all trials and kept in the cache by the hash of everything they depend on.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from compression.calibration import Calibration
from compression.collecting import collect
from compression.rules import target_layers
from compression.stats import GradientStats, InputStats, LayerStats, Need
from trainables.cache import folder
from trainables.frozen.feature_files import FeatureCacheError
from trainables.frozen.identity import task_text
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

    files: tuple[Path, ...]
    layers: tuple[str, ...]
    seconds: float

    def __getitem__(self, layer: str) -> LayerStats:
        if layer not in self.layers:
            raise KeyError(layer)
        return _read(self.files, layer)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def statistics(task: Task, data: Prepared, needs: Collection[Need]) -> Statistics:
    """Statistics of the task's target layers, taken first where the cache lacks them.

    Raises:
        InvalidSetting: they are not finite; names the layer.
        FeatureCacheError: the cache can't be written.
    """
    wanted = _wanted(needs)
    if not wanted or (calibration := examples(task, data)) is None:
        return Statistics((), (), 0.0)
    files = [_file(task, data, need) for need in wanted]
    for need, file in zip(wanted, files, strict=True):
        if not _whole(file):
            started = time.perf_counter()
            layers = target_layers(data.model, task.targets)
            found = collect(data.model, layers, {need}, calibration)
            _write(file, found, time.perf_counter() - started)
    return Statistics(tuple(files), tuple(_layers(files)), sum(map(_seconds, files)))


def _wanted(needs: Collection[Need]) -> list[Need]:
    """One file each; that of single gradients holds their mean too."""
    order: tuple[Need, ...] = ("inputs", "samples", "gradients")
    found = [need for need in order if need in needs]
    return [n for n in found if n != "gradients" or "samples" not in found]


def _file(task: Task, data: Prepared, need: Need) -> Path:
    parts = [str(FORMAT), task_text(task), data.fingerprint.weights, data.fingerprint.calibration]
    return folder() / "calibration" / f"{digest([*parts, need, torch.__version__])}.safetensors"


def _write(file: Path, stats: Mapping[str, LayerStats], seconds: float) -> None:
    tensors, about = dict[str, Tensor](), {"seconds": repr(seconds)}
    for layer, found in stats.items():
        for part in _PARTS:
            for name, value in _fields(getattr(found, part)):
                key = f"{layer}|{part}|{name}"
                tensors[key] = torch.as_tensor(value).contiguous()
                about[key] = _hash(tensors[key])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as aside:
            whole = Path(aside, file.name)
            save_file(tensors, whole, about)
            os.replace(whole, file)
    except (OSError, SafetensorError) as error:
        raise FeatureCacheError(
            f"calibration can't be kept in '{file.parent}' ({error}); free some space there, "
            "or set PARETUNE_CACHE to another folder"
        ) from None


def _fields(part: InputStats | GradientStats | None) -> Iterable[tuple[str, Any]]:
    if part is None:
        return []
    values = ((f.name, getattr(part, f.name)) for f in fields(part))
    return [(name, value) for name, value in values if value is not None]


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy().data).hexdigest()


_known: set[Path] = set()


def _whole(file: Path) -> bool:
    """Whether the file is there, and what it was when written: looked at once in a process."""
    if file not in _known:
        try:
            with safe_open(file, "pt") as opened:
                about, keys = opened.metadata(), list(opened.keys())
                right = all(about[key] == _hash(opened.get_tensor(key)) for key in keys)
        except (OSError, SafetensorError, KeyError):
            return False
        if right:
            _known.add(file)
    return file in _known


@lru_cache(maxsize=4096)
def _read(files: tuple[Path, ...], layer: str) -> LayerStats:
    """A layer's statistics, mapped from their files: workers of a machine share the memory."""
    parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for file in files:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - no mapping
                name, part, field = key.split("|")
                if name == layer:
                    value = opened.get_tensor(key)
                    parts[part][field] = value if value.ndim else int(value)
    return LayerStats(*(kind(**parts[p]) if parts[p] else None for p, kind in _PARTS.items()))


def _layers(files: Iterable[Path]) -> dict[str, None]:
    found: dict[str, None] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            found |= dict.fromkeys(key.split("|")[0] for key in opened.keys())  # noqa: SIM118
    return found


def _seconds(file: Path) -> float:
    with safe_open(file, "pt") as opened:
        return float(opened.metadata()["seconds"])
