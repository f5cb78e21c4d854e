"""Natural photos that packages bring along, and crops of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression.registry import InvalidSetting
from trainables.data.image_sources import SUFFIXES
from trainables.data.images import Images, open_image
from trainables.data.packages import package_folder

if TYPE_CHECKING:
    from PIL.Image import Image

# By package, the folder in it and the files there. Of a stereo pair one; no drawings, no text.
BUNDLED = {
    "foolbox": ("data", ["imagenet_*.jpg"]),
    "skimage": (
        "data",
        [f"{name}.*" for name in (
            "astronaut", "brick", "camera", "chelsea", "clock_motion", "coffee", "coins", "grass",
            "gravel", "hubble_deep_field", "moon", "motorcycle_left", "rocket",
        )],
    ),
    "sklearn": ("datasets/images", ["*.jpg"]),
    "matplotlib": ("mpl-data/sample_data", ["grace_hopper.jpg"]),
}  # fmt: skip
SHORTEST, LONGEST = 0.35, 1.0  # side of a crop, of the photo's shorter side
Box = tuple[int, int, int, int]


def bundled_photos(extra: str) -> list[Path]:
    """The photos of the packages that ``extra`` brings, in a fixed order.

    Raises:
        InvalidSetting: packages that are absent, or that lack a photo.
    """
    errors: list[str] = []
    found: list[Path] = []
    for package, (inside, patterns) in BUNDLED.items():
        try:
            folder = package_folder(package, extra) / inside
        except InvalidSetting as error:
            errors += error.errors
            continue
        for pattern in patterns:
            files = sorted(folder.glob(pattern))
            found += files
            if not files:
                errors.append(f"no photo '{pattern}' in '{folder}'")
    if errors:
        raise InvalidSetting(errors)
    return found


def photos_in(folder: Path) -> list[Path]:
    """Image files in a folder and the folders below it, by name.

    Raises:
        InvalidSetting: there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise InvalidSetting([f"photos: there is no folder '{folder}'"])
    found = sorted(path for path in folder.rglob("*") if path.name.lower().endswith(SUFFIXES))
    if not found:
        raise InvalidSetting([f"photos: no images in '{folder}'"])
    return found


@dataclass(frozen=True)
class Crops(Images):
    """Parts of photos: files, and of each crop the number of its file and its box."""

    files: tuple[Path, ...]
    boxes: tuple[tuple[int, Box], ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def image(self, index: int) -> Image:
        """See :class:`Images`."""
        file, box = self.boxes[index]
        return _photo(self.files[file]).crop(box)

    def take(self, rows: Sequence[int]) -> Crops:
        """See :class:`Images`."""
        return Crops(self.files, tuple(self.boxes[row] for row in rows))


def crop(files: Sequence[Path], count: int) -> tuple[Crops, str]:
    """``count`` square crops of each photo at random scales and places, and their content's hash.

    The crops of a photo are drawn by its content, so they are the same beside any other photos.

    Raises:
        InvalidSetting: a photo can't be read.
    """
    boxes: list[tuple[int, Box]] = []
    digest = hashlib.sha256()
    for number, file in enumerate(files):
        size = _photo(file).size
        content = hashlib.sha256(file.read_bytes()).digest()
        rng = np.random.default_rng(list(content))
        drawn = [_box(size, rng) for _ in range(count)]
        boxes += [(number, box) for box in drawn]
        digest.update(content + repr(drawn).encode())
    return Crops(tuple(files), tuple(boxes)), digest.hexdigest()


def _box(size: tuple[int, int], rng: np.random.Generator) -> Box:
    width, height = size
    side = round(rng.uniform(SHORTEST, LONGEST) * min(size))
    left, upper = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    return left, upper, left + side, upper + side


@lru_cache(maxsize=64)
def _photo(file: Path) -> Image:
    return open_image(file)
