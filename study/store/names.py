"""Names that files bring along, before one becomes a part of a path."""

from __future__ import annotations

import os
from collections.abc import Iterator

from analysis.study_info import LONGEST, is_name
from study.errors import StudyError

is_part = is_name


class UnsafeName(StudyError, ValueError):
    """A name in a file that would lead out of its folder, or a link that does."""


def part(name: str, what: str) -> str:
    """The name as it is.

    Raises:
        UnsafeName: it is not one part of a path.
    """
    if not is_part(name):
        raise UnsafeName(f"{what} {name[:LONGEST]!r} is no name of a file: it is not opened")
    return name


def is_within(path: str) -> bool:
    """Whether a relative path, parts with ``/`` between them, stays below its folder."""
    return all(map(is_part, path.split("/")))


def refuse_links(folder: str) -> None:
    """Refuse a folder of this machine with links inside: what is written must stay in it.

    The folder itself may be reached by one.

    Raises:
        UnsafeName: there are some; names the first.
    """
    for link in _links(folder):
        raise UnsafeName(
            f"{link} is a link to {os.readlink(link)!r}: nothing is written through links; "
            "put the file or folder itself there"
        )


def _links(folder: str) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        paths = (os.path.join(root, name) for name in [*folders, *files])
        yield from (path for path in paths if os.path.islink(path))
