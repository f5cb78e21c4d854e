"""A point of a study for another runtime: loaded from its file, written, run there, compared."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compression.artifact import ArtifactError, deserialize, serialize
from compression.export import Exported, Exporter, Loader, Source, runs_in
from compression.registry import InvalidSetting
from study.finished import Finished
from study.plugins import PluginFile, load_entry_points, sent_along
from study.store.files import artifact
from study.store.storage import StorageError
from trainables.build import resolve_task
from trainables.record import Record
from trainables.splits import Inputs, Split
from trainables.tasks import Prepared, Task

EXAMPLES = 256
CLOSE = 1e-3  # of the largest output: outputs that are further apart fail the export
"""Validation examples that a runtime's outputs are compared on, at most."""
_OWN = Path(__file__).parent.parent
_PACKAGES = (_OWN, _OWN.parent / "compression", _OWN.parent / "trainables")


@dataclass(frozen=True)
class Chosen:
    """The trial whose file is exported, and its study."""

    study: Finished
    trial_id: str
    record: Record


@dataclass(frozen=True)
class Subject:
    """A trial's model as its file gives it, with its task and data."""

    chosen: Chosen
    task: Task
    data: Prepared
    source: Source


@dataclass(frozen=True)
class Agreement:
    """How far a runtime's outputs are from ours.

    ``apart`` is the largest difference, ``largest`` our largest output, ``equal`` the share of
    predictions (the largest output along the last axis) that are the same.
    """

    examples: int
    apart: float
    largest: float
    equal: float

    @property
    def close(self) -> bool:
        """Whether they are as near as another order of sums in float32 leaves them."""
        return self.apart <= CLOSE * max(self.largest, 1.0)


def subject(chosen: Chosen) -> Subject:
    """Load a trial's file into the architecture of its task.

    Raises:
        InvalidSetting: the file is gone, is not the one that was measured, or is of another
            architecture; or a plugin of the study is not here.
    """
    folder, name = chosen.study.storage, artifact(chosen.trial_id)
    plugins = _plugins(chosen.study)
    try:
        packed = folder.read_bytes(name)
    except StorageError as error:
        raise InvalidSetting([f"the file of trial {chosen.trial_id} is gone: {error}"]) from None
    if hashlib.sha256(packed).hexdigest() != chosen.record.outcome.sha256:
        raise InvalidSetting([f"{folder}/{name} is not the file that was measured"])
    task = resolve_task(chosen.record.trial.task)
    try:
        model = deserialize(packed, task.architecture(), f"{folder}/{name}")
    except ArtifactError as error:
        raise InvalidSetting([str(error)]) from None
    data = task.prepare(int(chosen.study.info["seed"]))
    inputs = data.validation.inputs(torch.arange(min(2, len(data.validation))))
    loader = _loader(chosen.record, plugins)
    return Subject(chosen, task, data, Source(model, inputs, packed, task.forward, loader))


def _plugins(of: Finished) -> list[PluginFile]:
    files = sent_along(of.info)
    load_entry_points()
    for file in files:
        file.load()
    return files


def _loader(record: Record, plugins: list[PluginFile]) -> Loader:
    """What a process of its own needs to build the task's architecture."""
    task = record.trial.task
    config = {
        "task": task.name,
        "settings": dict(task.args),
        "plugins": {file.name: file.source for file in plugins},
    }
    return Loader(_OWN / "served.py", config, _PACKAGES)


def agreement(
    task: Task,
    source: Source,
    run: Callable[[Inputs], Tensor],
    validation: Split,
    examples: int = EXAMPLES,
) -> Agreement:
    """Hold a runtime's outputs against ours, on the first validation examples."""
    apart, largest, equal, count = [], [], [], min(examples, len(validation))
    for start in range(0, count, task.eval_batch_size):
        rows = torch.arange(start, min(start + task.eval_batch_size, count))
        inputs = validation.inputs(rows)
        with torch.inference_mode():
            ours = source.forward(source.model, inputs)
        theirs = run(inputs)
        apart.append((ours - theirs).abs().max())
        largest.append(ours.abs().max())
        equal.append((ours.argmax(-1) == theirs.argmax(-1)).flatten())
    same = torch.cat(equal).double().mean()
    # torch's max keeps NaN, Python's may not.
    difference, output = torch.stack(apart).max().item(), torch.stack(largest).max().item()
    return Agreement(count, difference, output, same.item())


def dense_bytes(exporter: Exporter, of: Subject) -> int:
    """Bytes of the task's dense model, written by the same exporter."""
    dense = of.data.model.eval()
    source = replace(of.source, model=dense, packed=serialize(dense))
    with tempfile.TemporaryDirectory() as folder:
        return exporter.write(source, Path(folder)).nbytes


def card(
    exporter: Exporter, of: Subject, written: Exported, dense: int, held: Agreement
) -> dict[str, Any]:
    """What is known of an exported file, as plain data."""
    return {
        "trial_id": of.chosen.trial_id,
        "study": of.chosen.study.name,
        "task": str(of.chosen.record.trial.task),
        "to": exporter.name,
        "settings": exporter.args(),
        "path": written.path.name,
        "bytes": written.nbytes,
        "packed_bytes": len(of.source.packed),
        "dense_bytes": dense,
        "ratio": dense / written.nbytes,
        "layers": dict(written.layers),
        "notes": list(written.notes),
        "runs_in": runs_in(of.source.model),
        "compared": {
            "examples": held.examples,
            "largest_difference": held.apart,
            "largest_output": held.largest,
            "equal_predictions": held.equal,
        },
    }
