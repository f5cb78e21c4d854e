"""What is the same for all trials, computed once: features at a cut, and a teacher's outputs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compression.model import trainable
from compression.rules import target_layers
from trainables.frozen import forward_pass
from trainables.frozen.cuts import Cut, NoCut, tensors_within, weights_hash
from trainables.frozen.feature_files import FeatureCacheError, Ragged
from trainables.frozen.feature_reader import Reader
from trainables.frozen.feature_split import FeatureSplit
from trainables.frozen.feature_store import Store
from trainables.frozen.identity import code_hash, task_text
from trainables.frozen.making import build, evaluating, is_fresh, sample_of, was_made
from trainables.frozen.prefix import changed_layers, find_cut
from trainables.hardware.devices import move, pick
from trainables.hardware.sending import send
from trainables.splits import Inputs, Split
from trainables.stage import Stage, whole
from trainables.tasks.base import Forward, Prepared, Task

LOG = logging.getLogger("paretune")
FORMAT = 1
"""Part of every key: raised when files or prefixes change their meaning."""
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
        dtype: of the training features on disk. Those that are scored are kept in float32.
    """
    source = _source(task, data.model, model, data.validation, store)
    if isinstance(source, NoCut):
        return whole(task, model, data, f"nothing is skipped: {source.reason}")
    wanted = bool(trainable(model)) if training is None else training
    distorted = task.augments and data.train.views == 1
    try:
        validation = source.split(data.validation)
        kept = source._replace(dtype=dtype)
        train = kept.split(data.train) if wanted and not distorted else data.train
    except FeatureCacheError as error:
        LOG.warning("%s", error)
        return whole(task, model, data, f"nothing is skipped: {error}")
    note = f"all up to {source.cut.after} is computed once"
    if wanted and distorted:
        note += ", but for training: the task distorts its inputs anew at each use"
    divided = isinstance(train, FeatureSplit)
    reads = source.cut.first if divided else {}

    def forward_of(any_model: nn.Module) -> Forward:
        return source._replace(model=any_model).forward()

    parts = (train, validation, data.model, forward_of)
    return Stage(model, source.forward(), *parts, note, reads, not divided)


def features_of(
    task: Task,
    dense: nn.Module,
    model: nn.Module,
    split: Split,
    store: Store | None = None,
) -> tuple[Forward, Split]:
    """A forward and a split to score ``model`` with, as :func:`stage` has them: for any split."""
    source = _source(task, dense, model, split, store)
    if isinstance(source, Source):
        try:
            return source.forward(), source.split(split)
        except FeatureCacheError as error:
            LOG.warning("%s", error)
    return partial(task.forward, model), split


class Prefetched(NamedTuple):
    """What came of a pass: one line for people, and whether there is no use in trying again."""

    note: str
    failed: bool = False


def prefetch(
    task: Task,
    data: Prepared,
    changed: Collection[str],
    store: Store | None = None,
    model: nn.Module | None = None,
    *,
    training: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Prefetched:
    """Make the features of a study before its trials, on all cores.

    Args:
        task: of the model.
        data: the dense model and the splits.
        changed: dotted names of the layers that trials change.
        store: the user's by default.
        model: whose prefix is run, where it is not the dense one: ``rest`` alters that too, and
            a copy may stand on another device.
        training: whether the training split is wanted.
        dtype: of the training features, as for :func:`stage`.
    """
    cut = find_cut(task, data.model, changed, sample_of(data.validation))
    if isinstance(cut, NoCut):
        return Prefetched(f"nothing is skipped: {cut.reason}")
    source = Source(task, data.model, model or data.model, cut, store or Store(), torch.float32)
    distorted = task.augments and data.train.views == 1
    try:
        with forward_pass.all_cores():
            source.split(data.validation)
            if training and not distorted:
                source._replace(dtype=dtype).split(data.train)
    except FeatureCacheError as error:
        return Prefetched(f"nothing is skipped: {error}", failed=True)
    return Prefetched(f"all up to {cut.after} is computed once")


def outputs(task: Task, model: nn.Module, split: Split, store: Store | None = None) -> Tensor:
    """A dense model's outputs over a split, (n, ...) in the split's order: kept in the store.

    The tensor is a read-only map of a file: read it, gather from it, don't write to it.

    Raises:
        FeatureCacheError: they can't be kept.
    """
    store = store or Store()
    with evaluating(model):
        found = _kept_outputs(task, model, split, store)
    if (mapped := found.mapped()) is not None:
        return mapped[OUTPUTS]
    value = found.fetch(torch.arange(len(split)))[OUTPUTS]
    if isinstance(value, Ragged):
        raise FeatureCacheError("outputs have no fixed shape")
    return value


def _kept_outputs(task: Task, model: nn.Module, split: Split, store: Store) -> Reader:
    names, device = tuple(tensors_within(model, "")), forward_pass.device_of(model)
    code = code_hash(dict(model.named_modules()))
    what = f"outputs|{code}|{task_text(task)}"
    key = _key(what, weights_hash(model, model, names), split, torch.float32)

    def fresh(inputs: Inputs) -> dict[str, Tensor]:
        return {OUTPUTS: task.forward(model, send(inputs, device))}

    found: Reader | None = store.find(key)
    if found is not None and not is_fresh(found, key, model, fresh, split):
        found = None
        store.discard(key)
    if found is None:
        forward, features = features_of(task, model, model, split, store)

        def capture(inputs: Inputs) -> dict[str, Tensor]:
            return {OUTPUTS: forward(inputs)}

        found = build(store, key, capture, features, torch.float32, "the outputs", device)
        was_made(key, model)
    return found


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
        if found is not None and not is_fresh(found, key, self.cut, self._fresh, split):
            found = None
            self.store.discard(key)
        if found is None:
            device = pick("auto")  # the pass goes to a card, if this process has one
            model = self.model if device.type == "cpu" else move(deepcopy(self.model), device)
            capture = self.cut.capture(model)
            found = build(self.store, key, capture, split, self.dtype, self.cut.after, device)
            was_made(key, self.cut)
        return FeatureSplit(split, self.store, key, found, self.cut.keeps_inputs)

    def _fresh(self, inputs: Inputs) -> dict[str, Tensor]:
        return self.cut.capture(self.model)(send(inputs, forward_pass.device_of(self.model)))

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
) -> Source | NoCut:
    """Where a model's features come from. One that changes nothing shares what the others use."""
    changed = changed_layers(model, dense) or tuple(target_layers(dense, task.targets))
    cut = find_cut(task, dense, changed, sample_of(split))
    if isinstance(cut, NoCut):
        return cut
    return Source(task, dense, model, cut, store or Store(), torch.float32)


def _key(what: str, weights: str, split: Split, dtype: torch.dtype) -> str:
    parts = [FORMAT, what, weights, split.digest, split.views, str(dtype)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
