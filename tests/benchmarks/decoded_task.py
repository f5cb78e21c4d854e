"""Decoded images and a ResNet-18, for ``one_pass.py``: what is timed is no decoder of JPEGs.

The images are smooth noise and the labels are drawn at random: what they are costs nothing.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compression.registry import IntRange, knob
from trainables.record import Fingerprint
from trainables.tasks import TASKS, Inputs, Prepared, Split, Task

SIZE = 224
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@dataclass(frozen=True, eq=False)
class DecodedSplit(Split):
    """Rows of a file of uint8 images, (n, 3, 224, 224), mapped into memory."""

    path: str
    first: int
    count: int

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]
        generator = torch.Generator().manual_seed(self.first)
        return torch.randint(1000, (self.count,), generator=generator)

    @cached_property
    def images(self) -> np.memmap:
        return np.memmap(self.path, np.uint8, "r").reshape(-1, 3, SIZE, SIZE)

    def __reduce__(self) -> tuple[type, tuple[str, int, int]]:
        """Another process maps the file itself."""
        return DecodedSplit, (self.path, self.first, self.count)

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.path}|{self.first}|{self.count}".encode()).hexdigest()

    def inputs(self, rows: Tensor) -> Inputs:
        pixels = torch.from_numpy(self.images[self.first + rows.numpy()])
        return (pixels.float().div_(255) - MEAN).div_(STD)


@TASKS.register("decoded")
class Decoded(Task):
    """ResNet-18 with seeded random weights, fc compressed; 64% training, 16% validation, 20% test.

    The file stands at ``$PARETUNE_DECODED``; :func:`write_images` makes it.
    """

    targets = ("fc",)
    eval_batch_size = 64
    images: int = knob(10_000, IntRange(100, 1_000_000))

    @property
    def chance(self) -> float:
        return 1e-3

    def architecture(self) -> nn.Module:
        from torchvision.models import resnet18

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return resnet18()

    def prepare(self, seed: int) -> Prepared:
        train, validation, _ = self._splits()
        fingerprint = Fingerprint("resnet18 of seed 0", f"noise-{self.images}")
        return Prepared(self.architecture().eval(), train, validation, fingerprint)

    def test(self, seed: int) -> Split:
        return self._splits()[2]

    def _splits(self) -> tuple[Split, Split, Split]:
        path = os.environ["PARETUNE_DECODED"]
        train, validation = round(0.64 * self.images), round(0.16 * self.images)
        both = train + validation
        return (
            DecodedSplit(path, 0, train),
            DecodedSplit(path, train, validation),
            DecodedSplit(path, both, self.images - both),
        )


def write_images(path: Path, count: int, seed: int = 0) -> None:
    """Smooth noise, 150,528 bytes an image."""
    generator = torch.Generator().manual_seed(seed)
    with path.open("wb") as file:
        for start in range(0, count, 64):
            coarse = torch.randn(min(64, count - start), 3, 14, 14, generator=generator)
            smooth = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
            file.write((smooth * 60 + 118).clamp(0, 255).byte().numpy().tobytes())
