"""Reading feature files: checked once, mapped into memory, gathered by row."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from trainables.frozen.feature_files import ROW, Damaged, Ragged, read_manifest


@dataclass(frozen=True)
class _Shard:
    """Mapped tensors of one file; ragged columns with offsets, (rows + 1,)."""

    rows: Tensor
    values: dict[str, Tensor]
    offsets: dict[str, Tensor]


# What Arrow and torch raise of a file whose checksum is right and whose form is another.
_FOREIGN = (ValueError, OSError, LookupError, AttributeError, RuntimeError, TypeError)
_verified: set[tuple[str, str, int, int, int]] = set()


def _verify(folder: Path, shards: Sequence[Mapping[str, Any]]) -> None:
    """Hold each file against its checksum, once in this process unless it was written to since.

    Raises:
        Damaged: names all files that differ.
    """

    def problem(shard: Mapping[str, Any]) -> str:
        path = folder / shard["file"]
        try:
            with open(path, "rb") as file:
                stat = os.fstat(file.fileno())
                seen = (str(path), shard["sha256"], stat.st_ino, stat.st_mtime_ns, stat.st_size)
                if seen in _verified:
                    return ""
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"{path}: {error.strerror}"
        if found != shard["sha256"]:
            return f"{path} does not have its checksum"
        _verified.add(seen)
        return ""

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        if problems := [text for text in pool.map(problem, shards) if text]:
            raise Damaged("; ".join(problems))


class Reader:
    """The rows of a folder, fetched by number. The files stay mapped, nothing is held in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_manifest(folder)
        self.columns = manifest.columns
        self.nbytes = sum(shard["bytes"] for shard in manifest.shards)
        _verify(folder, manifest.shards)
        self.shards = [self._checked(shard["file"]) for shard in manifest.shards]
        stored, self.rows = torch.cat([shard.rows for shard in self.shards]), manifest.rows
        if len(stored) != self.rows:
            raise Damaged(f"{folder} has {len(stored)} rows of {self.rows}")
        ordered = torch.arange(self.rows)
        self.place = None if torch.equal(stored, ordered) else stored.argsort()
        if self.place is not None and not torch.equal(stored[self.place], ordered):
            raise Damaged(f"{folder} does not have each of its {self.rows} rows once")
        self.starts = torch.tensor([0, *[len(shard.rows) for shard in self.shards]]).cumsum(0)

    def _checked(self, name: str) -> _Shard:
        """A shard whose every row can be read: Arrow trusts offsets, and would read outside."""
        try:
            shard = self._open(name)
        except _FOREIGN as error:
            raise Damaged(f"{self.folder / name}: {error}") from error
        for key, column in self.columns.items():
            last = shard.offsets[key][-1] if column.ragged else len(shard.rows)
            if len(shard.values[key]) != last:
                raise Damaged(f"{self.folder / name}: '{key}' has not {last} rows or steps")
        return shard

    def _open(self, name: str) -> _Shard:
        batch = pa.ipc.open_file(pa.memory_map(str(self.folder / name))).get_batch(0)
        batch.validate(full=True)
        values, offsets = {}, {}
        for key, column in self.columns.items():
            array = batch.column(key)
            if column.ragged:
                offsets[key] = from_dlpack(array.offsets)
                array = array.values
            items = from_dlpack(array.values).view(column.dtype)
            values[key] = items.view(-1, *column.shape)
        rows = from_dlpack(batch.column(ROW))
        if rows.dtype != torch.int64:
            raise TypeError(f"rows are numbered in {rows.dtype}")
        return _Shard(rows, values, offsets)

    def fetch(self, rows: Tensor) -> dict[str, Tensor | Ragged]:
        """The values of rows (b,), in memory of their own: one gather for each shard touched."""
        place = rows if self.place is None else self.place[rows]
        groups = list(self._groups(place))
        return {
            name: self._ragged(name, groups) if column.ragged else self._fixed(name, groups)
            for name, column in self.columns.items()
        }

    def mapped(self) -> dict[str, Tensor] | None:
        """All values as they lie in the map, which nobody may write to; None if in pieces."""
        whole = len(self.shards) == 1 and self.place is None
        if not whole or any(c.ragged or c.handed != c.dtype for c in self.columns.values()):
            return None
        return self.shards[0].values

    def _groups(self, place: Tensor) -> Iterator[tuple[_Shard, Tensor, Tensor]]:
        """Each shard that is touched, the rows there, and where they go: order within ``place``."""
        if len(self.shards) == 1:
            yield self.shards[0], place, torch.arange(len(place))
            return
        number = torch.bucketize(place, self.starts[1:], right=True)
        order = number.argsort(stable=True)
        counts = torch.bincount(number, minlength=len(self.shards)).tolist()
        for i, mine in enumerate(order.split(counts)):  # type: ignore[no-untyped-call]
            if len(mine):
                yield self.shards[i], place[mine] - self.starts[i], mine

    def _fixed(self, name: str, groups: Sequence[tuple[_Shard, Tensor, Tensor]]) -> Tensor:
        column = self.columns[name]
        if len(groups) == 1:
            shard, local, _ = groups[0]
            return gather(shard.values[name], local).to(column.handed)
        count = sum(len(mine) for _, _, mine in groups)
        found = torch.empty(count, *column.shape, dtype=column.dtype)
        for shard, local, mine in groups:
            found[mine] = gather(shard.values[name], local)
        return found.to(column.handed)

    def _ragged(self, name: str, groups: Sequence[tuple[_Shard, Tensor, Tensor]]) -> Ragged:
        column, count = self.columns[name], sum(len(mine) for _, _, mine in groups)
        lengths = torch.empty(count, dtype=torch.int64)
        for shard, local, mine in groups:
            offsets = shard.offsets[name]
            lengths[mine] = offsets[local + 1] - offsets[local]
        if len(groups) == 1:
            shard, local, _ = groups[0]
            steps = gather(shard.values[name], _steps(shard, name, local))
            return Ragged((steps.to(column.handed), lengths))
        starts = lengths.cumsum(0) - lengths
        found = torch.empty(int(lengths.sum()), *column.shape, dtype=column.dtype)
        for shard, local, mine in groups:
            found[spans(starts[mine], lengths[mine])] = gather(
                shard.values[name], _steps(shard, name, local)
            )
        return Ragged((found.to(column.handed), lengths))


def _steps(shard: _Shard, name: str, local: Tensor) -> Tensor:
    offsets = shard.offsets[name]
    return spans(offsets[local], offsets[local + 1] - offsets[local])


def spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """``start, start + 1, ...`` of each span, one after the other: (sum of lengths,)."""
    ends = lengths.cumsum(0)
    within = torch.arange(int(ends[-1]) if len(ends) else 0)
    return within + (starts - ends + lengths).repeat_interleave(lengths)


def gather(source: Tensor, rows: Tensor) -> Tensor:
    """``source[rows]`` in new memory; a run of rows is one copy."""
    first = int(rows[0]) if len(rows) else 0
    if torch.equal(rows, torch.arange(first, first + len(rows))):
        return source[first : first + len(rows)].clone()
    return source.index_select(0, rows)
