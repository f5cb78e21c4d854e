"""An object store in memory, behind pyarrow: no folders, no appending, a file shows up on close.

It can be told to fail, to die after so many writes, and to call somebody after each.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow import fs

from study.store.storage import Storage


@dataclass
class Store:
    """``refuse`` is asked before every change and may raise; ``written`` is called after it.

    ``refuse_reads`` is asked before every look.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    refuse: Callable[[str], None] = lambda path: None
    refuse_reads: Callable[[str], None] = lambda path: None
    written: Callable[[str], None] = lambda path: None
    writes: list[str] = field(default_factory=list)

    def dies_after(self, count: int) -> None:
        """Every change but the next ``count`` raises."""

        def refuse(path: str) -> None:
            if len(self.writes) >= count:
                raise OSError("the process was killed")

        self.writes.clear()
        self.refuse = refuse

    def storage(self) -> Storage:
        """A folder in it."""
        return Storage(fs.PyFileSystem(_Handler(self)), "bucket/study")

    def copy(self) -> Store:
        """As it stands, healthy."""
        return Store(dict(self.files))

    def put(self, path: str, data: bytes) -> None:
        """Store a file whole."""
        self.refuse(path)
        self.files[path] = data
        self.writes.append(path)
        self.written(path)


class _Upload(io.BytesIO):
    def __init__(self, store: Store, path: str) -> None:
        super().__init__()
        self._store, self._path = store, path

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self._store.put(self._path, data)


class _Handler(fs.FileSystemHandler):
    def __init__(self, store: Store) -> None:
        self._store, self._id = store, uuid.uuid4().hex

    def __eq__(self, other):
        return self is other

    def get_type_name(self):
        return "s3"

    def get_file_info(self, paths):
        return [self._info(path) for path in paths]

    def _info(self, path):
        self._store.refuse_reads(path)
        if (data := self._store.files.get(path)) is not None:
            return fs.FileInfo(path, fs.FileType.File, size=len(data))
        folder = any(name.startswith(f"{path}/") for name in self._store.files)
        return fs.FileInfo(path, fs.FileType.Directory if folder else fs.FileType.NotFound)

    def get_file_info_selector(self, selector):
        base = selector.base_dir.rstrip("/") + "/"
        self._store.refuse_reads(base)
        inside = [name[len(base) :] for name in self._store.files if name.startswith(base)]
        return [self._info(base + name) for name in {n.partition("/")[0] for n in inside}]

    def open_input_file(self, path):
        self._store.refuse_reads(path)
        if path not in self._store.files:
            raise FileNotFoundError(path)
        return pa.PythonFile(io.BytesIO(self._store.files[path]), mode="r")

    open_input_stream = open_input_file

    def open_output_stream(self, path, metadata):
        return pa.PythonFile(_Upload(self._store, path), mode="w")

    def delete_file(self, path):
        self._store.refuse(path)
        del self._store.files[path]

    def normalize_path(self, path):
        return path

    def _no(self, *args):
        raise NotImplementedError

    open_append_stream = copy_file = move = create_dir = delete_dir = _no
    delete_dir_contents = delete_root_dir_contents = _no
