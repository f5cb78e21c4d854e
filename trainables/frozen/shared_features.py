"""Features that the machines of a cluster share: made on one of them, copied by the others.

A store's folder ``features/KEY`` on a shelf that all of them reach; the manifest is written last,
so that what is there with one is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trainables.frozen.feature_files import MANIFEST
from trainables.shelf import Shelf, ShelfError

LOG = logging.getLogger("paretune")


class SharedShelf(Shelf, Protocol):
    """What features are kept on. Each method raises :class:`~trainables.shelf.ShelfError`."""

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there."""

    def read_bytes(self, name: str) -> bytes:
        """A file."""


_shelf: SharedShelf | None = None


def share(shelf: SharedShelf | None) -> None:
    """From now on this process's features are shared there; None for not at all."""
    global _shelf
    _shelf = shelf


class Offer:
    """The features of a key that are there to be copied; ``bytes`` of all files."""

    def __init__(self, shelf: SharedShelf, key: str) -> None:
        self._shelf, self._key = shelf, key
        self._manifest = shelf.read_bytes(f"{key}/{MANIFEST}")
        shards: list[Mapping[str, Any]] = json.loads(self._manifest)["shards"]
        self._shards = [(Path(str(s["file"])).name, str(s["sha256"])) for s in shards]
        self.bytes = sum(int(shard["bytes"]) for shard in shards) + len(self._manifest)

    def copy(self, folder: Path) -> None:
        """Write the files to an empty folder.

        Raises:
            ShelfError: one cannot be read, or is not what the manifest says.
        """
        for name, sha256 in self._shards:
            data = self._shelf.read_bytes(f"{self._key}/{name}")
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ShelfError(f"{name} is damaged")
            (folder / name).write_bytes(data)
        (folder / MANIFEST).write_bytes(self._manifest)


def find(key: str) -> Offer | None:
    """What another machine made, if anything is shared and can be read. Trouble costs time only."""
    try:
        if _shelf is None or not _shelf.exists(f"{key}/{MANIFEST}"):
            return None
        return Offer(_shelf, key)
    except (ShelfError, ValueError, KeyError, TypeError) as error:
        LOG.warning("shared features cannot be read, and are made here: %s", error)
        return None


def publish(key: str, folder: Path) -> None:
    """Share what was made here. Trouble costs the other machines time only."""
    if _shelf is None:
        return
    try:
        others = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
        for name in (*others, MANIFEST):
            _shelf.write_bytes(f"{key}/{name}", (folder / name).read_bytes())
    except OSError as error:
        LOG.warning("features are not shared with other machines: %s", error)
