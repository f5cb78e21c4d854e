"""The store of features on disk: one folder a key, a budget, and locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

from trainables import cache
from trainables.frozen import shared_features
from trainables.frozen.feature_files import (
    EXPECTED,
    MANIFEST,
    SHARD_BYTES,
    Column,
    Damaged,
    FeatureCacheError,
    Writer,
    claim,
    disk_errors,
    last_use,
    remove,
    stored,
)
from trainables.frozen.feature_reader import Reader
from trainables.shelf import ShelfError

LOG = logging.getLogger("paretune")
SHARE = 0.5
"""Of what is free on the disk, with what the features take already: the budget by default."""
LOCKS = "locks"
SPARE = 0.02
"""Of the disk, left free whatever the budget says."""
_MAKING = ".making-"

_open: WeakValueDictionary[Path, InUse] = WeakValueDictionary()
_opening = threading.RLock()


class InUse(Reader):
    """Features that no other process will evict as long as this lives."""

    def __init__(self, folder: Path, hold: int | None) -> None:
        self._hold = hold
        super().__init__(folder)

    def __del__(self) -> None:
        if self._hold is not None:
            with contextlib.suppress(OSError):
                os.close(self._hold)


class Store:
    """Features by key under one folder.

    Whoever makes a key holds ``KEY.build``, whoever reads it shares ``KEY.use``: the first has
    others wait for what is being made, the second keeps it from being evicted. The locks go with
    the process that holds them. A folder that cannot be written is read all the same: what is
    mapped stays readable even if its owner evicts it.

    Args:
        folder: ``features`` in the cache folder by default.
        budget: bytes of all features; ``$PARETUNE_CACHE_BYTES``, else half of the free disk.
    """

    def __init__(self, folder: Path | None = None, budget: int | None = None) -> None:
        self.folder = folder or cache.folder() / "features"
        self._budget = budget

    @property
    def budget(self) -> int:
        """Bytes that all features may take.

        Raises:
            FeatureCacheError: ``$PARETUNE_CACHE_BYTES`` is no number.
        """
        if self._budget is not None:
            return self._budget
        if not (given := os.environ.get("PARETUNE_CACHE_BYTES")):
            return int(SHARE * (self._free() + self._bytes()))
        try:
            return int(float(given))
        except ValueError:
            raise FeatureCacheError(
                f"PARETUNE_CACHE_BYTES is '{given}', not a number of bytes"
            ) from None

    def used(self) -> int:
        """Bytes that features take, those being made with all that they are going to take."""
        return sum(claim(path) for path in self._folders())

    def _bytes(self) -> int:
        return sum(stored(path) for path in self._folders())

    def find(self, key: str) -> InUse | None:
        """The features of a key if they are there and whole. Said, where they are damaged."""
        path = self.folder / key
        with _opening:
            if (found := _open.get(path)) is not None:
                return found
            if not os.path.exists(path / MANIFEST):
                return None
            hold = self._hold(key)
            with contextlib.suppress(OSError):
                os.utime(path / MANIFEST)  # what was used last is evicted last
            if not os.path.exists(path / MANIFEST):  # evicted a moment ago
                if hold is not None:
                    os.close(hold)
                return None
            try:
                found = InUse(path, hold)
            except (Damaged, OSError, ValueError) as error:
                LOG.warning("cached features are damaged and made anew: %s", error)
                return None
            _open[path] = found
            return found

    def get(
        self,
        key: str,
        columns: Mapping[str, Column],
        expected_bytes: int,
        fill: Callable[[Writer], None],
        about: Mapping[str, str] | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> InUse:
        """The features of a key, made by ``fill`` where they are not there or damaged.

        Raises:
            FeatureCacheError: they don't fit. What ``fill`` raises; nothing is left of it then.
        """
        if (found := self.find(key)) is not None:
            return found
        with self._locked(f"{key}.build", fcntl.LOCK_EX):
            if (found := self.find(key)) is not None:
                return found
            found = self._copied(key)
            if found is None:

                def write(aside: Path, limit: int) -> None:
                    writer = Writer(aside, columns, limit, shard_bytes)
                    fill(writer)
                    writer.close(about or {})

                self._make(key, expected_bytes, write)
                found = self.find(key)
                shared_features.publish(key, self.folder / key)
        if found is None:
            raise FeatureCacheError(f"features were gone as soon as they were made: {self.folder}")
        return found

    def _copied(self, key: str) -> InUse | None:
        """What another machine made."""
        offer = shared_features.find(key)
        if offer is None:
            return None
        try:
            self._make(key, offer.bytes, lambda aside, limit: offer.copy(aside))
        except ShelfError as error:
            LOG.warning("shared features cannot be read, and are made here: %s", error)
            return None
        return self.find(key)

    def _make(self, key: str, expected: int, write: Callable[[Path, int], None]) -> None:
        aside, whole = self.folder / f"{_MAKING}{key}", self.folder / key
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        with self._locked("room", fcntl.LOCK_EX), disk_errors(self.folder):
            limit = self._make_room(expected, whole)
            aside.mkdir(parents=True)
            (aside / EXPECTED).write_text(str(expected))
        try:
            write(aside, limit)
            shutil.rmtree(whole, ignore_errors=True)  # a damaged one
            with disk_errors(self.folder):
                (aside / EXPECTED).unlink()
                os.replace(aside, whole)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def _make_room(self, need: int, instead: Path) -> int:
        """Evict, least recently used first and never what is in use, until ``need`` bytes fit.

        Gives the bytes that there are then. What takes the place of ``instead`` may take its room.

        Raises:
            FeatureCacheError: they don't fit, even so: then nothing is evicted.
        """
        budget = self.budget
        if need > budget:
            raise FeatureCacheError(
                f"features take {_mb(need)}, the budget is {_mb(budget)}: raise "
                f"PARETUNE_CACHE_BYTES, or set PARETUNE_CACHE to a larger disk"
            )
        others = {path: claim(path) for path in self._folders() if path != instead}
        room = min(budget, self._free() + self._bytes() - self._spare()) - sum(others.values())
        with contextlib.ExitStack() as claims:
            evicted = []
            for path in sorted(others, key=last_use):
                if room < need and self._claimed(path, claims):
                    evicted.append(path)
                    room += others[path]
            if room < need:
                raise FeatureCacheError(
                    f"features take {_mb(need)}; {self.folder} has {_mb(self._free())} free and "
                    f"{_mb(self.used())} of {_mb(budget)} in use: free some disk, or raise "
                    "PARETUNE_CACHE_BYTES"
                )
            for path in evicted:
                remove(path)
                LOG.info("evicted cached features %s", path.name.removeprefix(_MAKING)[:12])
        return room

    def _claimed(self, path: Path, claims: contextlib.ExitStack) -> bool:
        """Whether nobody uses or makes what is there, nor will as long as the claims are held."""
        kind = "build" if path.name.startswith(_MAKING) else "use"
        name = f"{path.name.removeprefix(_MAKING)}.{kind}"
        try:
            claims.enter_context(self._locked(name, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except (BlockingIOError, FeatureCacheError):
            return False
        return True

    def discard(self, key: str) -> None:
        """Remove features.

        Raises:
            FeatureCacheError: somebody uses them, or the folder cannot be written.
        """
        try:
            with self._locked(f"{key}.use", fcntl.LOCK_EX | fcntl.LOCK_NB):
                with disk_errors(self.folder):
                    remove(self.folder / key)
        except BlockingIOError:
            raise FeatureCacheError(f"{self.folder / key} is in use: remove it later") from None

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        with disk_errors(self.folder):
            return [path for path in self.folder.iterdir() if path.is_dir() and path.name != LOCKS]

    def _free(self) -> int:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self.folder).free

    def _spare(self) -> int:
        return int(SPARE * min(shutil.disk_usage(self.folder).total, 50 << 30))

    def _hold(self, key: str) -> int | None:
        """What keeps features from being evicted; None where no lock can be made."""
        try:
            return self._lock(f"{key}.use", fcntl.LOCK_SH)
        except FeatureCacheError:
            return None

    def _lock(self, name: str, how: int) -> int:
        """An open lock file; closing it lets go."""
        with disk_errors(self.folder):
            held = _opened(self.folder / LOCKS / name)
            try:
                fcntl.flock(held, how)
            except BaseException:
                os.close(held)
                raise
        return held

    @contextlib.contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        held = self._lock(name, how)
        try:
            yield
        finally:
            os.close(held)


def _opened(path: Path) -> int:
    """A lock file, made if need be. That of another user can be locked without writing to it."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
