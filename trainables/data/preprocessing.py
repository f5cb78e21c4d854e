"""From a photo to what a vision model is called with, and seeded distorted views of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image

AREA = (0.08, 1.0)  # share of the photo that a random crop covers, uniform
RATIO = (3 / 4, 4 / 3)  # its width by its height, log-uniform
TRIES = 10
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


@dataclass(frozen=True)
class Steps:
    """A library's transforms, one after another.

    They are modules, but not called as such: while torch.fx traces a model in one thread it
    replaces ``nn.Module.__call__`` in all, and images are prepared beside it.
    """

    steps: tuple[Any, ...]

    def __call__(self, photo: Image) -> Tensor:
        """An RGB photo to a tensor (3, height, width)."""
        found: Any = photo
        for step in self.steps:
            found = step.forward(found) if isinstance(step, nn.Module) else step(found)
        return cast(Tensor, found)


@dataclass(frozen=True)
class Preprocessing:
    """``evaluate`` is the library's own: an RGB photo to a float tensor (3, height, width).

    The other fields are what it does in the end: ``size`` (height, width), the normalisation by
    channel, and the name of the interpolation.
    """

    evaluate: Callable[[Image], Tensor]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    @property
    def spec(self) -> str:
        """All that decides what comes out, for hashes."""
        return f"{self.evaluate!r}{self.size}{self.mean}{self.std}{self.interpolation}"

    def distort(self, photo: Image, key: tuple[int, ...]) -> Tensor:
        """A random resized crop, flipped half of the time, (3, height, width); the key decides.

        The crop of Szegedy et al., Going deeper with convolutions (2015), section 6.
        """
        rng = np.random.default_rng(key)
        box, flip = _crop(photo.size, rng), rng.random() < 0.5
        height, width = self.size
        view = photo.resize((width, height), _FILTERS[self.interpolation], box=box)
        pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1).float() / 255
        pixels = pixels.flip(-1) if flip else pixels
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (pixels - mean) / std


def _crop(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, upper, right, lower of a random part; the whole photo where none fits."""
    width, height = size
    for _ in range(TRIES):
        area = rng.uniform(*AREA) * width * height
        ratio = math.exp(rng.uniform(*np.log(RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    return 0, 0, width, height
