"""Any torchvision or timm classifier on labelled images of one's own."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import ClassVar, NamedTuple

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
    naming,
)
from compression.rules import patterns, target_layers
from trainables.cache import cached
from trainables.data.image_sets import PUBLISHED, ImageData
from trainables.data.images import ImageSplit, check_divided, divide, image_split
from trainables.data.preprocessing import Preprocessing
from trainables.models import finetuning
from trainables.models import vision as vision_models
from trainables.models.state import state_hash
from trainables.record import Direction, Fingerprint, Objective, Subject
from trainables.scoring import metrics
from trainables.splits import Split
from trainables.tasks.base import TASKS, Prepared, Task
from trainables.tasks.dense_labels import dense_labels

log = logging.getLogger(__name__)

PERHAPS = r"(\S(.*\S)?)?"
FILE = "library, none, or a .safetensors or .pth file"
TRAINED: dict[str, tuple[str, ...]] = {"weights": ("finetune",)}
SHARES = FloatRange(0.01, 0.9)
RE_ESTIMATE = 64  # batches from which BatchNorm's statistics are taken after a fine-tuning


@TASKS.register("image_classification")
class ImageClassification(Task):
    """A torchvision or timm classifier on a folder of images, CIFAR, MNIST or a Parquet file.

    80/10/10 unless set otherwise, stratified, drawn by the seed; damaged and repeated images are
    left out. Labels are those given, or what the dense model says (``labels: dense``): then the
    metric is the agreement with it. Chance names each of the model's classes equally often.
    """

    eval_batch_size: ClassVar[int] = 64

    model: str = knob("resnet18", Text(ANYTHING, "a torchvision model, or timm/NAME"))
    weights: str = knob("library", Text(ANYTHING, f"finetune, {FILE}"))
    start: str = knob("library", Text(ANYTHING, FILE), when=TRAINED, help="of the fine-tuning")
    epochs: int = knob(3, IntRange(1, 1000), when=TRAINED)
    lr: float = knob(1e-4, FloatRange(1e-7, 1.0, log=True), when=TRAINED)
    batch_size: int = knob(32, IntRange(1, 4096), when=TRAINED)
    data: str = knob("", Text(PERHAPS, "a folder, a Parquet file, or cifar10, mnist, ..."))
    root: str = knob("", Text(PERHAPS, "a folder"), help="where a published set is, or is put")
    labels_file: str = knob("", Text(PERHAPS, "a text file"), help="labels of a flat folder")
    image_column: str = knob("image", Text(ANYTHING, "a column name"), help="of a Parquet file")
    label_column: str = knob("label", Text(ANYTHING, "a column name"))
    labels: str = knob("given", Values(("given", "dense")))
    layers: str = knob("*", Text(ANYTHING, "patterns"), help="targets, separated by commas")
    image_size: int = knob(0, IntRange(0, 4096), help="pixels; 0: the model's own")
    validation_share: float = knob(0.1, SHARES)
    test_share: float = knob(0.1, SHARES)
    limit: int = knob(0, IntRange(0, 10**9), help="use so many images only; 0: all")
    views: int = knob(1, IntRange(1, 64), help="of each training image; above 1 cropped, flipped")

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.validation_share + self.test_share >= 1:
            yield f"{self.name}: validation_share and test_share leave nothing to train on"

    @property
    def targets(self) -> tuple[str, ...]:  # type: ignore[override]
        """By default every Linear and Conv2d."""
        return patterns(self.layers)

    @property
    def objective(self) -> Objective:
        """See :class:`Task`."""
        name = "accuracy" if self.labels == "given" else "agreement"
        return Objective(name, Direction.MAXIMIZE, "fraction")

    @property
    def chance(self) -> float:
        """One in as many as the model has classes."""
        return 1 / self.classes()

    @property
    def subject(self) -> Subject:
        """See :class:`Task`. No split is an official one: a published set is divided anew."""
        size = f" at {self.image_size} pixels" if self.image_size else ""
        tuned = self.weights == "finetune"
        weights = f"fine-tuned from {_origin(self.start)}" if tuned else _origin(self.weights)
        held = (self.validation_share, self.test_share)
        shares = "/".join(f"{100 * share:.4g}" for share in (1 - sum(held), *held))
        part = f" of {self.limit} images" if self.limit else ""
        data = self.data if self.data in PUBLISHED else "folder"
        return Subject(f"{self.model}{size}, {weights}", data, f"{shares}{part} by the seed")

    def images(self) -> ImageData:
        """Where the images are."""
        return ImageData(
            self.data, self.root, self.labels_file, self.image_column, self.label_column
        )

    def preprocessing(self) -> Preprocessing:
        """What the model's library does to an image."""
        return vision_models.preprocessing(self.model, self.image_size)

    def classes(self) -> int:
        """Of the model: its own where its weights are used as they are, else the data's.

        Raises:
            InvalidSetting: the data's classes are not those of the weights.
        """
        if self.weights in ("none", "finetune"):
            dense = self.labels == "dense" and self.weights == "none"
            return vision_models.own_classes(self.model) if dense else len(self._names())
        own = _weights_classes(self.model, self.weights)
        if self.labels == "given" and (problem := _mismatch(self._names(), own, self.data)):
            raise InvalidSetting([problem])
        return own

    def check(self) -> None:
        """See :class:`Task`."""
        errors: list[str] = []
        checks: list[Callable[[], object]] = [
            self._check_name,
            self._names,
            *(partial(_check_file, key, getattr(self, key)) for key in ("weights", "start")),
        ]
        for one in checks:
            errors.extend(errors_of(one))
        if not errors:
            errors.extend(errors_of(self._check_model))
        if errors:
            raise InvalidSetting(f"{self.name}.{error}" for error in errors)

    def _check_name(self) -> None:
        with naming("model"):
            vision_models.check_name(self.model)

    def _check_model(self) -> None:
        model = self.architecture()
        with naming("layers"):
            target_layers(model, self.targets)
        if self.image_size and (problem := vision_models.takes(model, self.preprocessing().size)):
            raise InvalidSetting(
                [f"image_size: {self.model} takes no {self.image_size}: {problem}"]
            )

    def architecture(self) -> nn.Module:
        """See :class:`Task`."""
        return vision_models.architecture(self.model, self.classes())

    def prepare(self, seed: int) -> Prepared:
        """See :class:`Task`. A fine-tuning is done once a machine, and so are dense labels."""
        parts = _parts(self, seed)
        model, weights = self._dense(seed)
        train, validation = (
            self._labelled(s, model, weights) for s in (parts.train, parts.validation)
        )
        return Prepared(model, train, validation, Fingerprint(weights, parts.hash))

    def test(self, seed: int) -> Split:
        """See :class:`Task`."""
        test = _parts(self, seed).test
        return test if self.labels == "given" else self._labelled(test, *self._dense(seed))

    def observe(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :class:`Task`; with more than five classes whether the label is among five, too."""
        return metrics.classified(outputs, labels) | metrics.among_five(outputs, labels)

    def score(self, observed: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, float]:
        """The share of examples that are right, ``top5`` likewise, and the mean ``loss``."""
        return metrics.shares(self.metric, observed, labels)

    def _names(self) -> tuple[str, ...]:
        if not self.data:
            raise InvalidSetting(["data: is missing; expected a folder, a Parquet file or a name"])
        return _class_names(self.images())

    def _labelled(self, split: ImageSplit, model: nn.Module, weights: str) -> ImageSplit:
        if self.labels == "given":
            return split
        return dataclasses.replace(split, labels=dense_labels(self, model, weights, split))

    def _dense(self, seed: int) -> tuple[nn.Module, str]:
        """The dense model and the hash of its weights."""
        model = self.architecture()
        if self.weights == "finetune":
            begun = _started(self.model, model, self.start)
            train = _parts(self, seed).train
            labels = hashlib.sha256(train.labels.numpy().tobytes()).hexdigest()
            schedule = finetuning.Schedule(self.epochs, self.lr, self.batch_size)
            begin = f"{self.model}|{state_hash(begun)}"
            key = f"{begin}|{train.digest}|{labels}|{schedule}|{finetuning.recipe()}|{seed}"
            done = cached(key, lambda: self._fine_tune(begun, train, schedule, seed))
            model = deserialize(done, self.architecture())
        elif self.weights != "none":
            vision_models.load(model, _state(self.model, self.weights), self.weights)
        return model.eval(), state_hash(model)

    def _fine_tune(
        self, model: nn.Module, train: Split, schedule: finetuning.Schedule, seed: int
    ) -> bytes:
        log.warning("fine-tuning on %d images, %d epochs; done once", len(train), self.epochs)
        finetuning.fit(model, partial(self.forward, model), self.loss, train, schedule, seed)
        order = torch.Generator().manual_seed(seed)
        batches = train.batches(self.batch_size, order)
        inputs = (batch.inputs for batch, _ in zip(batches, range(RE_ESTIMATE), strict=False))
        # A short training moves weights faster than BatchNorm's running means follow.
        torch.optim.swa_utils.update_bn(inputs, model)
        return serialize(model.eval())


class _Parts(NamedTuple):
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    hash: str


@cache
def _parts(task: ImageClassification, seed: int) -> _Parts:
    """The splits with their given labels, and the hash of all that decides what is where."""
    with naming(task.name):
        found = task.images().read()
        held = (task.validation_share, task.test_share)
        rows = divide(found.labels, (1 - sum(held), *held), seed, task.limit)
        check_divided(found.labels, rows, found.classes)
    prepared, views = task.preprocessing(), (task.views, 1, 1)
    train, validation, test = (
        image_split(found.take(part), prepared, count, seed)
        for part, count in zip(rows, views, strict=True)
    )
    digest = hashlib.sha256(task.labels.encode())
    for part in (train, validation, test):
        digest.update(part.digest.encode() + part.labels.numpy().tobytes())
    return _Parts(train, validation, test, digest.hexdigest()[:16])


@cache
def _class_names(images: ImageData) -> tuple[str, ...]:
    return images.classes()


@cache
def _weights_classes(model: str, weights: str) -> int:
    if weights == "library":
        return vision_models.own_classes(model)
    return vision_models.head(model, _state(model, weights))


def _state(model: str, weights: str) -> dict[str, Tensor]:
    if weights == "library":
        return vision_models.library_state(model)
    return vision_models.read_state(Path(weights).expanduser())


def _started(name: str, model: nn.Module, start: str) -> nn.Module:
    if start == "none":
        return model
    return vision_models.load_body(name, model, _state(name, start), start)


def _mismatch(names: tuple[str, ...], own: int, data: str) -> str:
    """Why labels of these classes can't be held against a model with ``own`` classes, if so."""
    numbered = names == tuple(map(str, range(len(names))))
    if len(names) == own or (numbered and len(names) < own):
        return ""
    found = f"label {len(names) - 1} is out of range" if numbered else f"{len(names)} classes"
    return (
        f"data: {found} in '{data}', the weights tell {own} classes apart; weights: finetune "
        "replaces the last layer and trains it, labels: dense needs no labels"
    )


def _origin(weights: str) -> str:
    """Where weights are from, in words."""
    return {"library": "library weights", "none": "no weights"}.get(weights, "weights of a file")


def _check_file(key: str, weights: str) -> None:
    if weights not in ("library", "none", "finetune") and not Path(weights).expanduser().is_file():
        raise InvalidSetting([f"{key}: there is no file '{weights}'; expected {FILE}"])
