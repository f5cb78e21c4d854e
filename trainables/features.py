"""What is the same for all trials, computed once: features at a cut, and a teacher's outputs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from compression.model import trainable
from compression.rules import target_layers
from trainables.frozen import forward_pass
from trainables.frozen.cuts import Capture, Cut, NoCut, code_hash, tensors_within, weights_hash
from trainables.frozen.feature_files import STORABLE, Column, FeatureCacheError, Ragged, Writer
from trainables.frozen.feature_reader import Reader
from trainables.frozen.feature_split import MASK, FeatureSplit
from trainables.frozen.feature_store import Store
from trainables.frozen.prefix import changed_layers, find_cut
from trainables.hardware.devices import move, pick
from trainables.hardware.sending import send
from trainables.splits import Inputs, Split
from trainables.stage import Stage, whole
from trainables.tasks.base import Forward, Prepared, Task

LOG = logging.getLogger("paretune")
FORMAT = 1
"""Part of every key: raised when files or prefixes change their meaning."""
SAMPLE = 4  # examples on which a cut is tried
OUTPUTS = "outputs"


def stage(
    task: Task,
    data: Prepared,
    model: nn.Module,
    store: Store | None = None,
    *,
    training: bool | None = None,
    dtype: torch.dtype = torch.float32,
) -> Stage:
    """The part of ``model`` that its training computes, on features of the rest.

    Features are made where the store lacks them. Where the model can't be divided or the store is
    too small the stage is the whole model, and its note says why.

    Args:
        task: of the model.
        data: the dense model and the splits.
        model: compressed and adapted, on the CPU.
        store: the user's by default.
        training: whether features of the training split are wanted; by default if anything in the
            model is trainable. A task that distorts its inputs trains the whole model.
        dtype: of the features on disk.
    """
    source = _source(task, data.model, model, data.validation, store, dtype)
    if isinstance(source, NoCut):
        return whole(task, model, data, f"nothing is skipped: {source.reason}")
    wanted = bool(trainable(model)) if training is None else training
    distorted = task.augments and data.train.views == 1
    try:
        validation = source.split(data.validation)
        train = source.split(data.train) if wanted and not distorted else data.train
    except FeatureCacheError as error:
        LOG.warning("%s", error)
        return whole(task, model, data, f"nothing is skipped: {error}")
    note = f"all up to {source.cut.after} is computed once"
    if wanted and distorted:
        note += ", but for training: the task distorts its inputs anew at each use"
    divided = isinstance(train, FeatureSplit)
    reads = source.cut.first if divided else {}
    return Stage(model, source.forward(), train, validation, note, reads, not divided)


def features_of(
    task: Task,
    dense: nn.Module,
    model: nn.Module,
    split: Split,
    store: Store | None = None,
) -> tuple[Forward, Split]:
    """A forward and a split to score ``model`` with, as :func:`stage` has them: for any split."""
    source = _source(task, dense, model, split, store, torch.float32)
    if isinstance(source, Source):
        try:
            return source.forward(), source.split(split)
        except FeatureCacheError as error:
            LOG.warning("%s", error)
    return _Whole(task, model), split


def prefetch(
    task: Task,
    data: Prepared,
    changed: Collection[str],
    store: Store | None = None,
    model: nn.Module | None = None,
    *,
    training: bool = True,
) -> str:
    """Make the features of a study before its trials, on all cores; one line on what came of it.

    Args:
        task: of the model.
        data: the dense model and the splits.
        changed: dotted names of the layers that trials change.
        store: the user's by default.
        model: whose prefix is run, where it is not the dense one: ``rest`` alters that too, and
            a copy may stand on another device.
        training: whether the training split is wanted.
    """
    cut = find_cut(task, data.model, changed, _sample(data.validation))
    if isinstance(cut, NoCut):
        return f"nothing is skipped: {cut.reason}"
    source = Source(task, data.model, model or data.model, cut, store or Store(), torch.float32)
    distorted = task.augments and data.train.views == 1
    try:
        with forward_pass.all_cores():
            source.split(data.validation)
            if training and not distorted:
                source.split(data.train)
    except FeatureCacheError as error:
        return f"nothing is skipped: {error}"
    return f"all up to {cut.after} is computed once"


def outputs(task: Task, model: nn.Module, split: Split, store: Store | None = None) -> Tensor:
    """A dense model's outputs over a split, (n, ...) in the split's order: kept in the store.

    The tensor is a read-only map of a file: read it, gather from it, don't write to it.

    Raises:
        FeatureCacheError: they can't be kept.
    """
    store = store or Store()
    names = tuple(tensors_within(model, ""))
    what = f"outputs|{code_hash({'': model})}|{type(task).__qualname__}|{task}"
    key = _key(what, weights_hash(model, model, names), split, torch.float32)
    found: Reader | None = store.find(key)
    if found is None:
        forward, features = features_of(task, model, model, split, store)

        device = forward_pass.device_of(model)

        def capture(inputs: Inputs) -> dict[str, Tensor]:
            return {OUTPUTS: forward(inputs)}

        found = _build(store, key, capture, features, torch.float32, "the outputs", device)
    if (mapped := found.mapped()) is not None:
        return mapped[OUTPUTS]
    value = found.fetch(torch.arange(len(split)))[OUTPUTS]
    if isinstance(value, Ragged):
        raise FeatureCacheError("outputs have no fixed shape")
    return value


class _Whole:
    """A task's forward of the whole model."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        self.task, self.model = task, model

    def __call__(self, inputs: Inputs) -> Tensor:
        return self.task.forward(self.model, inputs)


class Source(NamedTuple):
    """Where the features of a model come from."""

    task: Task
    dense: nn.Module
    model: nn.Module
    cut: Cut
    store: Store
    dtype: torch.dtype

    def split(self, split: Split) -> FeatureSplit:
        """The features of a split, made where they are not there.

        Raises:
            FeatureCacheError: they can't be.
        """
        weights = weights_hash(self.model, self.dense, self.cut.state)
        key = _key(self.cut.key, weights, split, self.dtype)
        found: Reader | None = self.store.find(key)
        if found is None:
            device = pick("auto")  # the pass goes to a card, if this process has one
            model = self.model if device.type == "cpu" else move(deepcopy(self.model), device)
            capture = self.cut.capture(model)
            found = _build(self.store, key, capture, split, self.dtype, self.cut.after, device)
        return FeatureSplit(split, self.store, key, found, self.cut.keeps_inputs)

    def forward(self) -> Forward:
        """The rest of the model for values at the cut; the whole of it for its own inputs."""
        resume, task, model = self.cut.resume(self.model), self.task, self.model
        names = frozenset(self.cut.names)

        def forward(inputs: Inputs) -> Tensor:
            if isinstance(inputs, Tensor) or names.isdisjoint(inputs):
                return task.forward(model, inputs)
            return resume(inputs)

        return forward


def _source(
    task: Task,
    dense: nn.Module,
    model: nn.Module,
    split: Split,
    store: Store | None,
    dtype: torch.dtype,
) -> Source | NoCut:
    """Where a model's features come from. One that changes nothing shares what the others use."""
    changed = changed_layers(model, dense) or tuple(target_layers(dense, task.targets))
    cut = find_cut(task, dense, changed, _sample(split))
    if isinstance(cut, NoCut):
        return cut
    return Source(task, dense, model, cut, store or Store(), dtype)


_samples: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by the split itself, not what it equals


def _sample(split: Split) -> Inputs:
    """The first examples, fetched once: a trial that asks for a known cut decodes no images."""
    if split not in _samples:
        _samples[split] = split.inputs(torch.arange(min(SAMPLE, len(split))))
    found: Inputs = _samples[split]
    return found


def _key(what: str, weights: str, split: Split, dtype: torch.dtype) -> str:
    parts = [FORMAT, what, weights, split.digest, split.views, str(dtype)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _build(
    store: Store,
    key: str,
    capture: Capture,
    split: Split,
    dtype: torch.dtype,
    after: str,
    device: torch.device,
) -> Reader:
    """Run the pass and store its values, whichever process comes first."""
    sample = send(_sample(split), device)
    with torch.inference_mode():
        columns = {
            name: _column(name, value, sample, dtype) for name, value in capture(sample).items()
        }
    rows = split.views * len(split)
    expected = sum(int(_rows_of(column, split) * column.nbytes) for column in columns.values())

    def fill(writer: Writer) -> None:
        def sink(given: Tensor, inputs: Inputs, values: dict[str, Tensor]) -> None:
            kept = {name: _steps(value, columns[name], inputs) for name, value in values.items()}
            writer.add(given, kept)

        LOG.info("%s rows through all up to %s, %.0f MB", f"{rows:,}", after, expected / 1e6)
        pace = forward_pass.run(capture, split, sink, device)
        LOG.info(
            "%s rows in %.1f s: %.1f a second, %s at a time",
            *(f"{rows:,}", pace.seconds, pace.rate, pace.size),
        )

    return store.get(key, columns, expected, fill, {"after": after, "split": split.digest})


def _column(name: str, value: Tensor, inputs: Inputs, dtype: torch.dtype) -> Column:
    kept = dtype if value.dtype == torch.float32 else value.dtype
    if kept not in STORABLE:
        raise FeatureCacheError(f"'{name}' holds {value.dtype}, which the cache can't keep")
    mask = None if isinstance(inputs, Tensor) else inputs.get(MASK)
    ragged = mask is not None and value.ndim >= 2 and value.shape[:2] == mask.shape
    return Column(kept, tuple(value.shape[2 if ragged else 1 :]), ragged, value.dtype)


def _rows_of(column: Column, split: Split) -> float:
    """Rows to store, or steps: these estimated by examples from all over the split."""
    rows = split.views * len(split)
    if not column.ragged:
        return rows
    some = torch.linspace(0, rows - 1, min(256, rows)).long()
    inputs = split.inputs(some)
    mask = inputs[MASK] if not isinstance(inputs, Tensor) else inputs
    return rows * mask.bool().sum().item() / len(some)


def _steps(value: Tensor, column: Column, inputs: Inputs) -> Tensor | Ragged:
    if not column.ragged or isinstance(inputs, Tensor):
        return value
    mask = inputs[MASK].bool()
    return Ragged((value[mask], mask.sum(1)))
