"""Puts the files of a report into place: all of them, or none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from pyarrow import fs

from analysis.replacing import refuse_links, remove, replace_all

__all__ = ["put"]

MOST_BYTES = 1 << 20  # of a list of files


def put(
    filesystem: fs.FileSystem, folder: str, files: Mapping[str, bytes], of: str = "report"
) -> None:
    """Write files by their paths below ``folder``, which is made if absent.

    Each is first written beside its place; only once all are there are they moved. What an earlier
    report wrote in the same formats and is no more, such as a chart, is removed, unless somebody
    changed it; which files it wrote stands in a list, ``.report.json``.

    Args:
        filesystem: Where to write.
        folder: A path on it.
        files: By their paths, which have an ending each.
        of: What they are of: several may stand in one folder.

    Raises:
        StudyDataError: The folder cannot be written, or there are links in it; the files of an
            earlier report stand as they were, and nothing new does.
    """
    name = f".{of}.json"
    before = _listed(filesystem, f"{folder}/{name}")
    endings = {PurePosixPath(path).suffix for path in files}
    gone = [p for p in before if p not in files and PurePosixPath(p).suffix in endings]
    now = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    # What is to go stays in the list until the next report: this one may end before it went.
    listed = json.dumps(before | now, indent=1).encode()
    refuse_links(filesystem, folder, [name, *files, *gone])
    replace_all(filesystem, folder, {name: listed, **files})
    remove(filesystem, (f"{folder}/{p}" for p in gone if _same(filesystem, folder, p, before[p])))


def _listed(filesystem: fs.FileSystem, path: str) -> dict[str, str]:
    """What an earlier report wrote and is still there, with its hash; nothing without a list."""
    try:
        with filesystem.open_input_file(path) as file:
            found = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError):
        return {}  # nothing is removed by a list that is not whole
    if not isinstance(found, dict):
        return {}
    folder = path.rpartition("/")[0]
    names = [name for name, told in found.items() if _is_own(name) and isinstance(told, str)]
    infos = filesystem.get_file_info([f"{folder}/{name}" for name in names])
    there = zip(names, infos, strict=True)
    return {name: found[name] for name, info in there if info.type == fs.FileType.File}


def _is_own(name: str) -> bool:
    """Whether a report could have written it: a list may come with a study from somebody else."""
    parts = name.split("/")
    return len(parts) <= 2 and not {"", ".", ".."} & set(parts) and "\\" not in name


def _same(filesystem: fs.FileSystem, folder: str, name: str, told: str) -> bool:
    """Whether a file is as it was written."""
    try:
        with filesystem.open_input_stream(f"{folder}/{name}") as stream:
            return hashlib.sha256(stream.read()).hexdigest() == told
    except OSError:
        return False
