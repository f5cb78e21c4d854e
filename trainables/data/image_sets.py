"""The images that a setting names: a published set, a Parquet file, a folder."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compression.registry import InvalidSetting
from trainables import cache
from trainables.data import image_sources
from trainables.data.downloads import fetch, folder
from trainables.data.image_checks import write
from trainables.data.images import Labelled, Pixels

# Classes of torchvision.datasets by our names, with the number of classes.
PUBLISHED = {
    "cifar10": ("CIFAR10", 10),
    "cifar100": ("CIFAR100", 100),
    "mnist": ("MNIST", 10),
    "fashion_mnist": ("FashionMNIST", 10),
    "kmnist": ("KMNIST", 10),
}


@dataclass(frozen=True)
class ImageData:
    """Where labelled images are.

    ``data`` is a name in :data:`PUBLISHED` (all images of the set, its test part too; ``root`` is
    the folder that holds it or will), a Parquet file with its two columns, or a folder of class
    folders; with a ``listing`` a folder of files.
    """

    data: str
    root: str = ""
    listing: str = ""
    image_column: str = "image"
    label_column: str = "label"

    def classes(self) -> tuple[str, ...]:
        """Names of the classes, without reading an image or downloading one.

        Raises:
            InvalidSetting: what is wrong with the data and cheap to know.
        """
        path = Path(self.data).expanduser()
        if self.data in PUBLISHED:
            return tuple(map(str, range(PUBLISHED[self.data][1])))
        if path.suffix == ".parquet":
            return image_sources.parquet_classes(path, self.image_column, self.label_column)
        if not path.exists():
            near = difflib.get_close_matches(self.data, PUBLISHED, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"sets: {', '.join(PUBLISHED)}"
            raise InvalidSetting([f"data: there is no folder or file '{path.absolute()}'; {hint}"])
        if self.listing:
            return image_sources.listed_classes(path, Path(self.listing).expanduser())
        return image_sources.folder_classes(path)

    def read(self) -> Labelled:
        """The images; their content is checked and hashed once.

        Raises:
            InvalidSetting: as :meth:`classes`; too many images are damaged.
            DownloadError: a published set could not be had.
        """
        self.classes()
        path = Path(self.data).expanduser()
        if self.data in PUBLISHED:
            return _published(self.data, Path(self.root) if self.root else folder("datasets"))
        if path.suffix == ".parquet":
            return image_sources.read_parquet(path, self.image_column, self.label_column)
        if self.listing:
            return image_sources.read_listed(path, Path(self.listing).expanduser())
        return image_sources.read_folder(path)


def _published(name: str, root: Path) -> Labelled:
    """A set of torchvision's, its images decoded to one .npy file in the cache."""
    parts = _parts(name, root)
    pixels = np.concatenate([np.asarray(part.data) for part in parts])
    labels = np.concatenate([np.asarray(part.targets) for part in parts]).astype(np.int64)
    hashes = tuple(hashlib.sha256(image.tobytes()).hexdigest()[:32] for image in pixels)
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()[:32]
    file = cache.folder() / "images" / f"{name}-{digest}.npy"
    if not file.exists():
        write(file, lambda aside: np.save(aside, pixels))
    first = {one: row for row, one in reversed(list(enumerate(hashes)))}  # CIFAR has doubles
    whole = Labelled(
        Pixels(file, tuple(range(len(labels)))),
        labels,
        hashes,
        tuple(map(str, range(_count(name)))),
    )
    return whole.take(np.array(sorted(first.values())))


def _parts(name: str, root: Path) -> list[Any]:
    from torchvision import datasets

    made = getattr(datasets, PUBLISHED[name][0])
    if name.startswith("cifar"):
        _fetch_cifar(made, root)
    else:
        _fetch_mnist(made, root)
    return [made(root, train=train, download=False) for train in (True, False)]


def _fetch_cifar(made: Any, root: Path) -> None:
    from torchvision.datasets.utils import extract_archive

    if not (root / made.base_folder).is_dir():
        file = fetch(made.url, made.tgz_md5, root, "md5")
        extract_archive(str(file), str(root))


def _fetch_mnist(made: Any, root: Path) -> None:
    from torchvision.datasets.utils import extract_archive

    raw = root / made.__name__ / "raw"
    for name, md5 in made.resources:
        if not (raw / name.removesuffix(".gz")).exists():
            extract_archive(str(fetch(made.mirrors[0] + name, md5, raw, "md5")), str(raw))


def _count(name: str) -> int:
    return PUBLISHED[name][1]
