"""Where a study's files stand: a folder on any filesystem that pyarrow reaches."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from analysis.masking import masked
from study.errors import StorageError
from study.store.names import is_within
from study.store.patience import Patience

__all__ = ["Storage", "StorageError"]

T = TypeVar("T")

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, pa.ArrowInvalid)

# There are no folders to make, a file shows up whole on close or not at all, a move is a copy.
_OBJECT_STORES = ("s3", "gcs", "abfs")


class Hopeless(StorageError):
    """It would be refused again: a name that leads out of the folder, a file that is not there."""

    passing = False


@dataclass(frozen=True)
class Storage:
    """A folder: ``filesystem`` and the path of its ``root`` there. Names are relative to it.

    ``uri`` opens the same folder in another process. What the filesystem refuses is tried again for
    as long as ``patience`` lasts; a file that is not there is not waited for.
    """

    filesystem: fs.FileSystem
    root: str
    uri: str = field(default="", repr=False)
    patience: Patience = field(default_factory=Patience, repr=False, compare=False)

    @classmethod
    def open(cls, uri: str | os.PathLike[str]) -> Storage:
        """The folder at a local path or a URI such as ``s3://bucket/path``. Touches nothing.

        Raises:
            StorageError: no filesystem is known for the URI.
        """
        text = os.fspath(uri)
        if "://" not in text:
            path = os.path.abspath(os.path.expanduser(text))
            return cls(fs.LocalFileSystem(), path, path)
        try:
            filesystem, root = fs.FileSystem.from_uri(text)
        except (ValueError, ImportError, OSError) as error:
            raise StorageError(masked(f"storage '{text}': {error}")) from error
        return cls(filesystem, root.rstrip("/"), text)

    def __str__(self) -> str:
        """For people: the path or URI, without keys that stand in it."""
        return masked(self.uri.partition("?")[0]) or self.root

    @property
    def is_local(self) -> bool:
        """Whether the operating system can open the files."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def _is_object_store(self) -> bool:
        # pyarrow puts a mark before the names of those that are written in Python.
        return self.filesystem.type_name.removeprefix("py::") in _OBJECT_STORES

    def path(self, name: str = "") -> str:
        """The full path of ``name`` on the filesystem.

        Raises:
            StorageError: it would lead out of the folder.
        """
        if name not in ("", ".") and not is_within(name):
            raise Hopeless(f"{name[:200]!r} is no name within {self}: it is not opened")
        return f"{self.root}/{name}" if name else self.root

    def sub(self, name: str) -> Storage:
        """The folder ``name`` in this one."""
        base, mark, query = self.uri.partition("?")
        uri = f"{base.rstrip('/')}/{name}{mark}{query}" if base else ""
        return Storage(self.filesystem, self.path(name), uri, self.patience)

    def patient(self, patience: Patience) -> Storage:
        """The same folder, with this patience."""
        return replace(self, patience=patience)

    def exists(self, name: str = "") -> bool:
        """Whether a file or a folder of this name stands here."""
        return bool(self._reading("look at", name, self._info).type != fs.FileType.NotFound)

    def size(self, name: str) -> int:
        """Length of a file in bytes."""

        def measure(path: str) -> int:
            info = self._info(path)
            if info.type != fs.FileType.File:
                raise FileNotFoundError("no such file")
            return int(info.size)

        return self._reading("look at", name, measure)

    def list(self, name: str = "") -> list[str]:
        """Sorted names of the files and folders in the folder ``name``; empty if there is none."""
        return sorted(info.base_name for info in self._infos(name))

    def sizes(self, name: str = "") -> dict[str, int]:
        """Lengths in bytes of the files in the folder ``name`` and below, by their names here."""
        found, start = self._infos(name, recursive=True), len(self.root) + 1
        return {info.path[start:]: int(info.size) for info in found if info.is_file}

    def read_bytes(self, name: str, offset: int = 0) -> bytes:
        """The bytes of a file from ``offset`` on."""

        def read(path: str) -> bytes:
            with self.filesystem.open_input_file(path) as file:
                file.seek(offset)
                return bytes(file.read())

        return self._reading("read", name, read)

    def read_text(self, name: str) -> str:
        """A UTF-8 file."""
        return self.read_bytes(name).decode()

    def write_bytes(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file so that readers see the old one or the new one, never a part."""
        self.patiently("write", name, lambda: self._write(self.path(name), data))

    def write_text(self, name: str, text: str) -> None:
        """As :meth:`write_bytes`, UTF-8."""
        self.write_bytes(name, text.encode())

    def make(self) -> None:
        """Make this folder and those above it."""
        with self._saying("make", ""):
            self._make_folder(self.path("."))

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing happens if it is absent."""
        self.patiently("delete", name, lambda: self._delete(name))

    def patiently(self, verb: str, name: str, action: Callable[[], T]) -> T:
        """What ``action`` returns. What the filesystem refuses is tried again.

        Raises:
            StorageError: patience is over: ``cannot VERB NAME`` and why.
        """

        def attempt() -> T:
            with self._saying(verb, name):
                return action()

        return self.patience.call(attempt)

    def discard(self, name: str) -> None:
        """Delete a file if that can be done: where it is refused, only room is lost."""
        with suppress(StorageError):
            self.delete(name)

    def check_writable(self, size: int = 1) -> None:
        """Write and delete a file of so many bytes.

        Raises:
            StorageError: it cannot be done; says why.
        """
        name = f".writable-{uuid.uuid4().hex[:8]}"
        self.write_bytes(name, b"x" * size)
        self.delete(name)

    def _reading(self, verb: str, name: str, action: Callable[[str], T]) -> T:
        """As :meth:`patiently`; what is not there or no file is not waited for."""
        path = self.path(name)

        def attempt() -> T:
            try:
                return action(path)
            except (OSError, pa.ArrowInvalid) as error:
                # pyarrow has no class of its own for a folder that was to be read.
                if not isinstance(error, _ABSENT) and "is a directory" not in str(error):
                    raise
                raise Hopeless(f"cannot {verb} {self._called(name)}: {reason(error)}") from error

        return self.patiently(verb, name, attempt)

    def _info(self, path: str) -> fs.FileInfo:
        return self.filesystem.get_file_info(path)

    def _infos(self, name: str, recursive: bool = False) -> Iterable[fs.FileInfo]:
        def look(path: str) -> Iterable[fs.FileInfo]:
            selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
            return tuple(self.filesystem.get_file_info(selector))

        return self._reading("list", name, look)

    def _make_folder(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        if folder and not self._is_object_store:
            self.filesystem.create_dir(folder, recursive=True)

    def _write(self, path: str, data: bytes | pa.Buffer) -> None:
        self._make_folder(path)
        if self._is_object_store:
            self._put(path, data)
            return
        aside = f"{path}.{uuid.uuid4().hex[:8]}.part"
        try:
            self._put(aside, data)
            self.filesystem.move(aside, path)
        except BaseException:
            self._forget(aside)
            raise

    def _delete(self, name: str) -> None:
        kind = self._info(self.path(name)).type
        if kind == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path(name))
        elif kind == fs.FileType.File:
            self.filesystem.delete_file(self.path(name))

    def _put(self, path: str, data: bytes | pa.Buffer) -> None:
        with self.filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        if self.is_local:  # else a power cut after the move could leave an empty file
            with open(path, "rb") as file:
                os.fsync(file.fileno())

    def _forget(self, path: str) -> None:
        try:
            self.filesystem.delete_file(path)
        except OSError:
            return  # the error that brought us here is the one to tell

    @contextmanager
    def _saying(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"cannot {verb} {self._called(name)}: {reason(error)}") from error

    def _called(self, name: str) -> Storage:
        return self.sub(name) if name else self


def reason(error: Exception) -> str:
    """The cause in a few words: pyarrow's messages repeat path and detail."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error).strip().splitlines()[0]


def openable(uri: str) -> str:
    """The same address.

    Raises:
        ValueError: no filesystem is known for it.
    """
    try:
        Storage.open(uri)
    except StorageError as error:
        raise ValueError(str(error)) from None
    return uri
