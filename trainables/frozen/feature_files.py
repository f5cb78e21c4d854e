"""Tensors on disk, one row an example: Arrow IPC files with their checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import torch
from torch import Tensor

from trainables.serial import parse_json

SHARD_BYTES = 256 << 20
MANIFEST = "manifest.json"
EXPECTED = "expected"
"""A file beside what is being made: the bytes that it is expected to take."""
ROW = "row"

# Each dtype with the Arrow type of its bits; what Arrow or DLPack lacks is kept as integers.
_ARROW: dict[torch.dtype, tuple[pa.DataType, torch.dtype]] = {
    torch.float32: (pa.float32(), torch.float32),
    torch.float64: (pa.float64(), torch.float64),
    torch.float16: (pa.float16(), torch.float16),
    torch.bfloat16: (pa.uint16(), torch.uint16),
    torch.int64: (pa.int64(), torch.int64),
    torch.int32: (pa.int32(), torch.int32),
    torch.bool: (pa.uint8(), torch.uint8),
    torch.uint8: (pa.uint8(), torch.uint8),
}
STORABLE = frozenset(_ARROW)
_PART = re.compile(r"part-\d{5}\.arrow")
_NAMES = {str(dtype): dtype for dtype in _ARROW}


class FeatureCacheError(RuntimeError):
    """Features cannot be kept: the disk or the budget is too small, or a value has no fixed form.

    The message says what is wrong and what to change.
    """


class Damaged(FeatureCacheError):
    """Files that are not what their manifest says."""


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say what to do where the store's own files cannot be written: for no others' errors.

    Raises:
        FeatureCacheError: within the block there was an OSError.
    """
    try:
        yield
    except BlockingIOError:  # of a lock, no error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full"
        elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            what = "the folder cannot be written"
        else:
            what = f"the folder cannot be used ({error.strerror or error})"
        raise FeatureCacheError(
            f"features were not cached, {what}: {folder}; free some disk, or set PARETUNE_CACHE "
            "to a folder on another one"
        ) from error


@dataclass(frozen=True)
class Column:
    """One tensor of each example: ``shape`` for one row, or for one step of a ragged row.

    ``dtype`` is that on disk, ``handed`` the one that rows are fetched in.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    ragged: bool = False
    handed: torch.dtype | None = None

    @property
    def item(self) -> int:
        """Numbers in a row or step."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a row or step."""
        return self.item * self.dtype.itemsize

    def to_json(self) -> dict[str, Any]:
        """See :meth:`from_json`."""
        return asdict(self) | {"dtype": str(self.dtype), "handed": str(self.handed or self.dtype)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Column:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError, LookupError, TypeError: it is none.
        """
        dtype, handed = _NAMES[values["dtype"]], _NAMES[values["handed"]]
        shape, ragged = tuple(values["shape"]), values["ragged"]
        if type(ragged) is not bool or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"no column: {shape}, {ragged}")
        return Column(dtype, shape, ragged, handed)


class Ragged(tuple[Tensor, Tensor]):
    """Steps of all rows, (sum of lengths, ...), and lengths, (b,) int64."""

    __slots__ = ()


Values = Mapping[str, "Tensor | Ragged"]


class Writer:
    """Writes rows into shards in a folder; :meth:`close` writes the manifest, last.

    Rows may come in any order. A batch goes into one shard, so shards stay below ``shard_bytes``
    unless one batch is larger.
    """

    def __init__(
        self,
        folder: Path,
        columns: Mapping[str, Column],
        limit: int,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.folder, self.columns, self.limit = folder, dict(columns), limit
        self.shard_bytes = shard_bytes
        self.waiting: list[tuple[Tensor, Values]] = []
        self.waiting_bytes = self.written = self.rows = 0
        self.shards: list[dict[str, Any]] = []

    def add(self, rows: Tensor, values: Values) -> None:
        """Rows (b,) with their values: (b, ...) or :class:`Ragged`.

        Raises:
            FeatureCacheError: values of another shape than before, or more bytes than allowed.
        """
        kept = {name: _checked(name, column, values[name]) for name, column in self.columns.items()}
        size = sum(t.nbytes for v in kept.values() for t in (v if isinstance(v, Ragged) else (v,)))
        if self.waiting and self.waiting_bytes + size > self.shard_bytes:
            self._flush()
        self.waiting.append((rows, kept))
        self.waiting_bytes += size
        self.rows += len(rows)
        if self.written + self.waiting_bytes > self.limit:
            raise FeatureCacheError(
                f"features take more than the {self.limit} bytes left for them: free some disk, "
                "or raise PARETUNE_CACHE_BYTES"
            )

    def _flush(self) -> None:
        arrays = [pa.array(torch.cat([rows for rows, _ in self.waiting]).numpy())]
        for name, column in self.columns.items():
            arrays.append(_array(column, [values[name] for _, values in self.waiting]))
        batch = pa.record_batch(arrays, names=[ROW, *self.columns])
        name = f"part-{len(self.shards):05d}.arrow"
        with disk_errors(self.folder.parent), open(self.folder / name, "wb") as file:
            sink = _Hashing(file)
            with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), batch.schema) as out:
                out.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        digest = sink.sha256.hexdigest()
        self.shards.append({"file": name, "bytes": sink.size, "sha256": digest})
        self.written += sink.size
        self.waiting, self.waiting_bytes = [], 0

    def close(self, about: Mapping[str, str]) -> None:
        """Write what is left, then the manifest."""
        if self.waiting:
            self._flush()
        manifest = {
            "about": dict(about),
            "rows": self.rows,
            "columns": {name: column.to_json() for name, column in self.columns.items()},
            "shards": self.shards,
        }
        path = self.folder / MANIFEST
        with disk_errors(self.folder.parent), open(path, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.size, self.closed = file, hashlib.sha256(), 0, False

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.file.write(data)
        self.size += len(memoryview(data).cast("B"))
        return self.size

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        self.closed = True


def _checked(name: str, column: Column, value: Tensor | Ragged) -> Tensor | Ragged:
    tensor = value[0] if isinstance(value, Ragged) else value
    if (tuple(tensor.shape[1:]), isinstance(value, Ragged)) != (column.shape, column.ragged):
        raise FeatureCacheError(
            f"'{name}' has rows of {tuple(tensor.shape[1:])}, those before {column.shape}: only "
            "examples that all have one shape can be cached"
        )
    tensor = tensor.detach().to("cpu", column.dtype).contiguous()
    return Ragged((tensor, value[1].cpu())) if isinstance(value, Ragged) else tensor


def _array(column: Column, values: Sequence[Tensor | Ragged]) -> pa.Array:
    kind, bits = _ARROW[column.dtype]
    flat = torch.cat([(v[0] if isinstance(v, Ragged) else v).reshape(-1) for v in values])
    items = pa.Array.from_buffers(kind, flat.numel(), [None, pa.py_buffer(flat.view(bits).numpy())])
    rows = pa.FixedSizeListArray.from_arrays(items, column.item)
    if not column.ragged:
        return rows
    lengths = torch.cat([v[1] for v in values])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return pa.LargeListArray.from_arrays(pa.array(offsets.numpy()), rows)


def read_manifest(folder: Path) -> Manifest:
    """A folder's manifest.

    Raises:
        Damaged: there is none, or it cannot be read.
    """
    try:
        return Manifest.from_json(parse_json((folder / MANIFEST).read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder / MANIFEST}: {error!r}") from error


@dataclass(frozen=True)
class Manifest:
    """What a folder says of itself: rows, columns, and files with lengths and checksums."""

    rows: int
    columns: Mapping[str, Column]
    shards: tuple[Mapping[str, Any], ...]

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Manifest:
        """Of plain data, which is checked.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is no manifest.
        """
        columns = {str(name): Column.from_json(one) for name, one in values["columns"].items()}
        shards = tuple(
            {key: one[key] for key in ("file", "bytes", "sha256")} for one in values["shards"]
        )
        for shard in shards:
            words = _PART.fullmatch(shard["file"]) and isinstance(shard["sha256"], str)
            if not words or type(shard["bytes"]) is not int:
                raise ValueError(f"no part of features: {shard}")
        if type(values["rows"]) is not int or not shards:
            raise ValueError("no number of rows, or no parts")
        return Manifest(values["rows"], columns, shards)


def remove(folder: Path) -> None:
    """Remove features, the manifest first: without it they are not taken for whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def claim(folder: Path) -> int:
    """Bytes of features; of those being made what they were expected to take, if that is more."""
    try:
        return max(stored(folder), int((folder / EXPECTED).read_text()))
    except (OSError, ValueError):
        return stored(folder)


def stored(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            total += entry.stat().st_size
    return total


def last_use(folder: Path) -> float:
    """When features were last asked for, in seconds; 0 for those being made."""
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0
