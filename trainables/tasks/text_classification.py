"""Any Hugging Face encoder on labelled texts of one's own."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from compression.artifact import deserialize, serialize
from compression.registry import (
    ANYTHING,
    FloatRange,
    IntRange,
    InvalidSetting,
    Text,
    Values,
    errors_of,
    knob,
)
from compression.rules import patterns, target_layers
from trainables.cache import cached
from trainables.data import texts
from trainables.data.text_tables import Source, class_counts, read
from trainables.data.texts import TextSplit
from trainables.models import finetuning
from trainables.models import language as language_models
from trainables.models.state import state_hash
from trainables.record import Direction, Fingerprint, Objective
from trainables.scoring import metrics
from trainables.splits import Inputs, Split
from trainables.tasks.base import TASKS, Loss, Prepared, Task

log = logging.getLogger(__name__)


@TASKS.register("text_classification")
class TextClassification(Task):
    """Labelled texts of a Parquet or CSV file, and an encoder that is fine-tuned on them once.

    Empty texts and exact and near duplicates are left out; then 80/10/10, stratified, drawn by the
    seed. Batches hold texts of like lengths.
    """

    eval_batch_size: ClassVar[int] = 64

    model: str = knob("", Text(ANYTHING, "a local folder or a name on the Hugging Face hub"))
    data: str = knob("", Text(ANYTHING, "a Parquet or CSV file, or a hub data set NAME:SPLIT"))
    text: str = knob("text", Text(ANYTHING, "column names"), help="separated by commas")
    label: str = knob("label", Text(ANYTHING, "a column name"))
    classes: int = knob(0, IntRange(0, 1000), help="labels 0, 1, ...; 0: the values that occur")
    max_length: int = knob(128, IntRange(4, 8192), help="tokens; longer texts lose their end")
    layers: str = knob("*", Text(ANYTHING, "patterns"), help="targets, separated by commas")
    primary: str = knob("accuracy", Values(("accuracy", "balanced_accuracy", "f1", "mcc")))
    balance: bool = knob(False, Values((False, True)), help="each class weighs the same in losses")
    epochs: int = knob(1, IntRange(0, 100), help="of the fine-tuning; 0: a classifier as it is")
    lr: float = knob(5e-5, FloatRange(1e-7, 1.0, log=True))
    batch_size: int = knob(32, IntRange(1, 4096))
    train_on: int = knob(0, IntRange(0, 10**9), help="use so many training texts only; 0: all")
    limit: int = knob(0, IntRange(0, 10**9), help="use so many texts only; 0: all")

    @property
    def targets(self) -> tuple[str, ...]:  # type: ignore[override]
        """By default every Linear of the encoder and the head."""
        return patterns(self.layers)

    @property
    def objective(self) -> Objective:
        """See :class:`Task`."""
        unit = "" if self.primary == "mcc" else "fraction"
        return Objective(self.primary, Direction.MAXIMIZE, unit)

    @property
    def chance(self) -> float:
        """Of the guess that always names the most frequent class."""
        counts = list(_counts(self.source()).values())
        share = max(counts) / sum(counts)
        by_metric = {
            "accuracy": share,
            "balanced_accuracy": 1 / len(counts),
            "f1": 2 * share / (1 + share) / len(counts),
            "mcc": 0.0,
        }
        return by_metric[self.primary]

    def source(self) -> Source:
        """Where the texts are."""
        return Source(self.data, self.text, self.label, self.classes)

    def folder(self) -> Path:
        """Where the encoder is."""
        return language_models.model_folder(self.model)

    def check(self) -> None:
        """See :class:`Task`."""
        errors = [*errors_of(self.folder), *errors_of(lambda: _counts(self.source()))]
        errors = errors or [*errors_of(self._check_model)]
        if errors:
            raise InvalidSetting(f"{self.name}: {error}" for error in errors)

    def _check_model(self) -> None:
        target_layers(self.skeleton(), self.targets)

    def architecture(self) -> nn.Module:
        """See :class:`Task`: from config.json and the number of classes."""
        return language_models.classifier(self._config())

    def skeleton(self) -> nn.Module:
        """See :class:`Task`: without values."""
        return language_models.classifier(self._config(), "meta")

    def _config(self) -> Any:
        folder = self.folder()
        config = language_models.config_of(folder, num_labels=len(_counts(self.source())))
        limit = getattr(config, "max_position_embeddings", self.max_length)
        if self.max_length > limit:
            raise InvalidSetting([f"max_length: {self.max_length}, but the model takes {limit}"])
        if config.pad_token_id is None:
            config.pad_token_id = language_models.padding(language_models.tokenizer(folder))
        return config

    def prepare(self, seed: int) -> Prepared:
        """See :class:`Task`. The fine-tuning is done once a machine."""
        parts = parts_of(self, seed)
        model, new = language_models.load(self.skeleton(), self.folder())
        if new and not self.epochs:
            raise InvalidSetting(
                [f"epochs: 0, but the checkpoint lacks {', '.join(new)}: fine-tune it"]
            )
        if self.epochs:
            key = f"{self.name}|{self._training()}|{state_hash(model)}|{parts.hash}"
            weights = cached(f"{key}|{seed}", lambda: self._fine_tune(model, parts.train, seed))
            model = deserialize(weights, self.architecture())
        fingerprint = Fingerprint(state_hash(model), parts.hash)
        return Prepared(model.eval(), parts.train, parts.validation, fingerprint)

    def test(self, seed: int) -> Split:
        """See :class:`Task`."""
        return parts_of(self, seed).test

    def forward(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Logits, (b, classes)."""
        return language_models.logits(model, cast(Mapping[str, Tensor], inputs))

    def training_loss(self, labels: Tensor) -> Loss:
        """Cross-entropy; with ``balance`` the mean over classes that are equally frequent."""
        if not self.balance:
            return self.loss

        @cache
        def weights(classes: int, device: torch.device) -> Tensor:
            counts = torch.bincount(labels, minlength=classes).clamp(min=1)
            return (len(labels) / (classes * counts)).to(device)

        def balanced(outputs: Tensor, given: Tensor) -> Tensor:
            each = weights(outputs.shape[-1], outputs.device)
            return nn.functional.cross_entropy(outputs, given, each)

        return balanced

    def score(self, observed: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, float]:
        """See :func:`trainables.scoring.metrics.classification_scores`."""
        return metrics.classification_scores(observed, labels)

    def _training(self) -> str:
        balance = "training labels" if self.balance else False
        schedule = (self.epochs, self.lr, self.batch_size, balance)
        return f"{schedule}|{finetuning.recipe()}"

    def _fine_tune(self, model: nn.Module, train: TextSplit, seed: int) -> bytes:
        log.warning("fine-tuning on %d texts, %d epochs; done once", len(train), self.epochs)
        schedule = finetuning.Schedule(self.epochs, self.lr, self.batch_size)
        loss = self.training_loss(train.labels)
        finetuning.fit(model, partial(self.forward, model), loss, train, schedule, seed)
        return serialize(model)


class Parts(NamedTuple):
    """The splits, and the hash of all that decides which text is where."""

    train: TextSplit
    validation: TextSplit
    test: TextSplit
    hash: str


@cache
def parts_of(task: TextClassification, seed: int) -> Parts:
    """The splits of a task, read, cleaned and tokenised once."""
    folder, source = task.folder(), task.source()
    found = read(source)
    rows = texts.limited(len(found.labels), task.limit, seed)
    tokenizer = language_models.tokenizer(folder)
    chosen = [found.texts[row] for row in rows.tolist()]
    key = language_models.tokenizer_key(folder)
    every = texts.tokenise(tokenizer, key, chosen, found.labels[rows], task.max_length)
    for note in found.notes:
        log.warning(note)
    if every.cut:
        log.warning(
            "%s: %d of %d texts are longer than %d tokens and lose their end",
            source.name, every.cut, len(chosen), task.max_length,
        )  # fmt: skip
    drawn = texts.stratified(found.labels[rows], seed)
    train, validation, test = (every.texts.take(part) for part in drawn)
    train = train.take(texts.limited(len(train), task.train_on, seed))
    digest = hashlib.sha256()
    for part in (train, validation, test):
        digest.update(part.digest.encode() + part.labels.numpy().tobytes())
    return Parts(train, validation, test, digest.hexdigest()[:16])


@cache
def _counts(source: Source) -> dict[str, int]:
    return class_counts(source)
