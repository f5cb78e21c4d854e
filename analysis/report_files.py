"""Puts the files of a report into place: all of them, or none."""

from __future__ import annotations

from collections.abc import Mapping

from pyarrow import fs

from analysis.load import StudyDataError

__all__ = ["put"]

ASIDE = ".part"


def put(filesystem: fs.FileSystem, folder: str, files: Mapping[str, bytes]) -> None:
    """Write files by their paths below ``folder``, which is made if absent.

    Each is first written beside its place; only once all are there are they moved.

    Raises:
        StudyDataError: The folder cannot be written; the files of an earlier report stand.
    """
    paths = {f"{folder}/{name}": content for name, content in files.items()}
    written: list[str] = []
    try:
        for parent in sorted({path.rpartition("/")[0] for path in paths}):
            filesystem.create_dir(parent, recursive=True)
        for path, content in paths.items():
            written.append(path + ASIDE)
            with filesystem.open_output_stream(path + ASIDE) as stream:
                stream.write(content)
        for path in paths:
            filesystem.move(path + ASIDE, path)
    except OSError as error:
        _remove(filesystem, written)
        raise StudyDataError(f"{folder}: the report cannot be written: {error}") from error


def _remove(filesystem: fs.FileSystem, paths: list[str]) -> None:
    for path in paths:
        try:
            filesystem.delete_file(path)
        except OSError:
            continue  # was never opened, or moved; that it could not be written is said already
