"""Writes files in the place of others: all of them, or none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from pyarrow import fs

from analysis.load import StudyDataError

__all__ = ["refuse_links", "remove", "replace_all"]

ASIDE, KEPT = ".part", ".before"
"""Endings beside a file's place: of the new one that is not yet whole, of a copy of the old one."""


def refuse_links(filesystem: fs.FileSystem, folder: str, names: Iterable[str]) -> None:
    """Refuse links at the places of files below a folder, or on the way to them.

    The folder itself may be reached by one. Only a disk of this machine has any.

    Raises:
        StudyDataError: There is one; names it.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        return
    for name in names:
        parts = name.split("/")
        ways = ["/".join(parts[:count]) for count in range(1, len(parts))]
        for place in (*ways, name, name + ASIDE, name + KEPT):
            if os.path.islink(path := f"{folder}/{place}"):
                raise StudyDataError(
                    f"{path} is a link: nothing is written through links; remove it"
                )


def replace_all(filesystem: fs.FileSystem, folder: str, files: Mapping[str, bytes]) -> None:
    """Write files by their paths below ``folder``, which is made if absent.

    Each is first written beside its place, and the one that stands there is copied; only once all
    that is done are they moved. If a move fails the copies are moved back.

    Raises:
        StudyDataError: The folder cannot be written; everything in it is as it was.
    """
    paths = [f"{folder}/{name}" for name in files]
    parents = sorted({path.rpartition("/")[0] for path in paths})
    made = _absent(filesystem, parents)
    before: list[str] = []
    moved: list[str] = []
    try:
        for parent in parents:
            filesystem.create_dir(parent, recursive=True)
        before = _there(filesystem, paths)
        for path, content in zip(paths, files.values(), strict=True):
            with filesystem.open_output_stream(path + ASIDE) as stream:
                stream.write(content)
        for path in before:
            filesystem.copy_file(path, path + KEPT)
        for path in paths:
            filesystem.move(path + ASIDE, path)
            moved.append(path)
    except OSError as error:
        remove(filesystem, [path for path in moved if path not in before])
        _put_back(filesystem, [path for path in moved if path in before])
        _tidy(filesystem, paths, before)
        _remove_empty(filesystem, made)
        raise StudyDataError(f"{folder}: the report cannot be written: {error}") from error
    _tidy(filesystem, paths, before)


def _tidy(filesystem: fs.FileSystem, paths: Sequence[str], before: Sequence[str]) -> None:
    remove(filesystem, [*(path + ASIDE for path in paths), *(path + KEPT for path in before)])


def _there(filesystem: fs.FileSystem, paths: Sequence[str]) -> list[str]:
    """Those of the paths where a file stands.

    Raises:
        IsADirectoryError: a folder stands there, which no file can replace.
    """
    found = filesystem.get_file_info(list(paths))
    if folders := [info.path for info in found if info.type == fs.FileType.Directory]:
        raise IsADirectoryError(f"{folders[0]} is a folder")
    return [info.path for info in found if info.type == fs.FileType.File]


def _absent(filesystem: fs.FileSystem, folders: Iterable[str]) -> list[str]:
    """The folders, and those above, that are not there; the outermost first."""
    wanted = set()
    for folder in folders:
        while folder and filesystem.get_file_info(folder).type == fs.FileType.NotFound:
            wanted.add(folder)
            folder = folder.rpartition("/")[0]
    return sorted(wanted)


def _put_back(filesystem: fs.FileSystem, paths: Iterable[str]) -> None:
    for path in paths:
        try:
            filesystem.move(path + KEPT, path)
        except OSError as error:
            raise StudyDataError(
                f"{path}: could not be put back: {error}; it is kept as {path}{KEPT}"
            ) from error


def _remove_empty(filesystem: fs.FileSystem, folders: Sequence[str]) -> None:
    for folder in reversed(folders):
        try:
            if not filesystem.get_file_info(fs.FileSelector(folder)):
                filesystem.delete_dir(folder)
        except OSError:
            continue  # was never made; that nothing could be written is said already


def remove(filesystem: fs.FileSystem, paths: Iterable[str]) -> None:
    """Delete files, as far as they are there."""
    for path in paths:
        try:
            filesystem.delete_file(path)
        except OSError:
            continue  # was never opened, or moved; that it could not be written is said already
