"""Labelled images that are decoded and prepared by the batch, in threads."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compression.registry import InvalidSetting
from trainables.data.preprocessing import Preprocessing
from trainables.splits import Split

if TYPE_CHECKING:
    from PIL.Image import Image


def open_image(file: Path) -> Image:
    """An image file, decoded, RGB.

    Raises:
        InvalidSetting: it can't be read, although it may have been when the data was checked.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidSetting([f"data: the image '{file}' can't be read: {reason}"]) from None


class Images(ABC):
    """Images by number. Small to pickle: the pixels stay in their files."""

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abstractmethod
    def image(self, index: int) -> Image:
        """One, decoded, RGB."""

    @abstractmethod
    def take(self, rows: Sequence[int]) -> Images:
        """Some of them, in that order, and nothing that tells of the others."""


@dataclass(frozen=True)
class Files(Images):
    """Image files under a folder."""

    root: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image:
        """See :class:`Images`."""
        return open_image(self.root / self.paths[index])

    def take(self, rows: Sequence[int]) -> Files:
        """See :class:`Images`."""
        return Files(self.root, tuple(self.paths[row] for row in rows))


@dataclass(frozen=True)
class Pixels(Images):
    """Decoded images of one size in a .npy file, uint8 (n, height, width[, 3]), memory-mapped."""

    file: Path
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Image:
        """See :class:`Images`."""
        from PIL import Image

        return Image.fromarray(_mapped(self.file)[self.rows[index]]).convert("RGB")

    def take(self, rows: Sequence[int]) -> Pixels:
        """See :class:`Images`."""
        return Pixels(self.file, tuple(self.rows[row] for row in rows))


@dataclass(frozen=True)
class Encoded(Images):
    """Image files as values of a binary column in an Arrow IPC file, memory-mapped."""

    file: Path
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Image:
        """See :class:`Images`."""
        from PIL import Image

        value = _column(self.file)[self.rows[index]]
        with Image.open(io.BytesIO(value.as_buffer())) as image:
            return image.convert("RGB")

    def take(self, rows: Sequence[int]) -> Encoded:
        """See :class:`Images`."""
        return Encoded(self.file, tuple(self.rows[row] for row in rows))


@dataclass(frozen=True)
class Labelled:
    """Images with labels (n,) int64 below ``len(classes)``, and a hash of each one's content."""

    images: Images
    labels: np.ndarray
    hashes: tuple[str, ...]
    classes: tuple[str, ...]

    def take(self, rows: np.ndarray) -> Labelled:
        """Some of them, in that order."""
        return Labelled(
            self.images.take(rows.tolist()),
            self.labels[rows],
            tuple(self.hashes[row] for row in rows),
            self.classes,
        )


@dataclass(frozen=True, eq=False)
class ImageSplit(Split):
    """Images as a model gets them: float32 (b, 3, height, width).

    View 0 is the preprocessing that is scored; the others are crops and flips drawn by
    (seed, view, example), see :meth:`Preprocessing.distort`.
    """

    images: Images
    preprocessing: Preprocessing
    content: str
    """Hash of the images' content, in order."""
    labels: Tensor = field()
    views: int = 1
    seed: int = 0
    groups: Tensor | None = None

    @cached_property
    def digest(self) -> str:
        """See :class:`Split`."""
        views = f"{self.views}|{self.seed}" if self.views > 1 else "1"
        return _hash(self.content, self.preprocessing.spec, views)

    def inputs(self, rows: Tensor) -> Tensor:
        """See :class:`Split`. Decoded on as many threads as torch may use."""
        return torch.stack(list(_pool(torch.get_num_threads()).map(self._input, rows.tolist())))

    def _input(self, row: int) -> Tensor:
        view, example = divmod(row, len(self.images))
        photo = self.images.image(example)
        if view == 0:
            return self.preprocessing.evaluate(photo)
        return self.preprocessing.distort(photo, (self.seed, view, example))


def image_split(
    found: Labelled, preprocessing: Preprocessing, views: int = 1, seed: int = 0
) -> ImageSplit:
    """The images with their own labels."""
    content = _hash(*found.hashes)
    labels = torch.from_numpy(found.labels)
    return ImageSplit(found.images, preprocessing, content, labels, views, seed)


def divide(
    labels: np.ndarray, fractions: Sequence[float], seed: int, limit: int = 0
) -> list[np.ndarray]:
    """Rows of disjoint parts with these fractions, each class in each part in proportion.

    Rows are put in an order in which any stretch has every class in proportion, and the order is
    cut. With a ``limit`` only so many rows are used, drawn likewise.
    """
    rng = np.random.default_rng(seed)
    rows = _mixed(labels, rng)[: limit or None]
    rows = rows[_mixed(labels[rows], rng)]
    cuts = np.round(np.cumsum(fractions[:-1]) * len(rows)).astype(int)
    return np.split(rows, cuts)


def check_divided(labels: np.ndarray, parts: Sequence[np.ndarray], classes: Sequence[str]) -> None:
    """Find out whether every part has images.

    Raises:
        InvalidSetting: a part without any, named with the numbers.
    """
    names = ("train", "validation", "test")
    if empty := [name for name, part in zip(names, parts, strict=True) if not len(part)]:
        count = sum(map(len, parts))
        raise InvalidSetting(
            [f"data: {count} images in {len(classes)} classes leave {', '.join(empty)} empty"]
        )


def _mixed(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An order in which the k-th image of a class of n stands near the fraction k / n."""
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + rng.random(len(rows))) / len(rows)
    return np.argsort(place, kind="stable")


def _hash(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "images")


@cache
def _mapped(file: Path) -> np.ndarray:
    mapped: np.ndarray = np.load(file, mmap_mode="r")
    return mapped


@cache
def _column(file: Path) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(file))).read_all().column(0)
