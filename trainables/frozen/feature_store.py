"""The store of features on disk: one folder a key, a budget, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

from trainables import cache
from trainables.frozen.feature_files import (
    MANIFEST,
    SHARD_BYTES,
    Column,
    Damaged,
    FeatureCacheError,
    Writer,
)
from trainables.frozen.feature_reader import Reader

LOG = logging.getLogger("paretune")
SHARE = 0.5
"""Of what is free on the disk, with what the features take already: the budget by default."""
SPARE = 0.02
"""Of the disk, left free whatever the budget says."""
_MAKING = ".making-"

_open: WeakValueDictionary[Path, InUse] = WeakValueDictionary()
_opening = threading.RLock()


class InUse(Reader):
    """Features that no other process will evict as long as this lives."""

    def __init__(self, folder: Path, hold: int) -> None:
        self._hold = hold
        super().__init__(folder)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._hold)


class Store:
    """Features by key under one folder.

    Whoever makes a key holds ``KEY.build``, whoever reads it shares ``KEY.use``: the first has
    others wait for what is being made, the second keeps it from being evicted. The locks go with
    the process that holds them.

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
            return int(SHARE * (self._free() + self.used()))
        try:
            return int(float(given))
        except ValueError:
            raise FeatureCacheError(
                f"PARETUNE_CACHE_BYTES is '{given}', not a number of bytes"
            ) from None

    def used(self) -> int:
        """Bytes that features take now, those being made among them."""
        return sum(_size(path) for path in self._folders())

    def find(self, key: str) -> InUse | None:
        """The features of a key if they are there and whole. Said, where they are damaged."""
        path = self.folder / key
        with _opening:
            if (found := _open.get(path)) is not None:
                return found
            if not (path / MANIFEST).exists():
                return None
            hold = self._lock(f"{key}.use", fcntl.LOCK_SH)
            try:
                os.utime(path / MANIFEST)  # what was used last is evicted last
            except FileNotFoundError:  # evicted a moment ago
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
            with _disk_errors(self.folder):
                self._make(key, columns, expected_bytes, fill, about or {}, shard_bytes)
            found = self.find(key)
        if found is None:
            raise FeatureCacheError(f"features were gone as soon as they were made: {self.folder}")
        return found

    def _make(
        self,
        key: str,
        columns: Mapping[str, Column],
        expected: int,
        fill: Callable[[Writer], None],
        about: Mapping[str, str],
        shard_bytes: int,
    ) -> None:
        aside = self.folder / f"{_MAKING}{key}"
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        with self._locked("room", fcntl.LOCK_EX):
            self._make_room(expected, self.folder / key)
            aside.mkdir(parents=True)
        limit = min(self.budget - self.used(), self._free() - self._spare())
        writer = Writer(aside, columns, limit, shard_bytes)
        try:
            fill(writer)
            writer.close(about)
            shutil.rmtree(self.folder / key, ignore_errors=True)  # a damaged one
            os.replace(aside, self.folder / key)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def _make_room(self, need: int, instead: Path) -> None:
        """Evict, least recently used first and never what is in use, until ``need`` bytes fit.

        Raises:
            FeatureCacheError: they don't, even so.
        """
        budget = self.budget
        if need > budget:
            raise FeatureCacheError(
                f"features take {_mb(need)}, the budget is {_mb(budget)}: raise "
                f"PARETUNE_CACHE_BYTES, or set PARETUNE_CACHE to a larger disk"
            )
        oldest = sorted((p for p in self._folders() if p != instead), key=_last_use)
        while self._lacking(need, budget, instead):
            if not oldest:
                raise FeatureCacheError(
                    f"features take {_mb(need)}; {self.folder} has {_mb(self._free())} free and "
                    f"{_mb(self.used())} of {_mb(budget)} in use: free some disk, or raise "
                    "PARETUNE_CACHE_BYTES"
                )
            self._evict(oldest.pop(0))

    def _lacking(self, need: int, budget: int, instead: Path) -> bool:
        room = min(budget - self.used(), self._free() - self._spare()) + _size(instead)
        return need > room

    def _evict(self, path: Path) -> None:
        """Remove features unless somebody uses them."""
        key = path.name.removeprefix(_MAKING)
        try:
            kind = "build" if path.name.startswith(_MAKING) else "use"
            with self._locked(f"{key}.{kind}", fcntl.LOCK_EX | fcntl.LOCK_NB):
                (path / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            return
        LOG.info("evicted cached features %s", key[:12])

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if path.is_dir() and path.name != "locks"]

    def _free(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.folder).free

    def _spare(self) -> int:
        return int(SPARE * min(shutil.disk_usage(self.folder).total, 50 << 30))

    def _lock(self, name: str, how: int) -> int:
        """An open lock file; closing it lets go."""
        path = self.folder / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
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


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Say what to do about a disk that is full or cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full"
        elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            what = "the folder cannot be written"
        else:
            raise
        raise FeatureCacheError(
            f"features were not cached, {what}: {folder}; free some disk, or set PARETUNE_CACHE "
            "to a folder on another one"
        ) from error


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            total += entry.stat().st_size
    return total


def _last_use(folder: Path) -> float:
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
