"""Small JSON files of a study: what was damaged, or changed by hand, is told by a checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from analysis.load import CHECKSUM, StudyDataError, checksum, parse_sealed
from study.errors import StudyError
from study.store.storage import Storage


def write(storage: Storage, name: str, content: Mapping[str, Any]) -> None:
    """Write an object with its checksum."""
    plain = json.loads(json.dumps(content))  # as it is read back: tuples are lists by then
    storage.write_text(name, json.dumps({**plain, CHECKSUM: checksum(plain)}, indent=1) + "\n")


def read(storage: Storage, name: str, remedy: str) -> dict[str, Any] | None:
    """The object, without its checksum; None if there is no such file.

    Earlier versions wrote none: such files are taken as they are.

    Raises:
        StudyError: the file is damaged; ends with the ``remedy``.
    """
    if not storage.exists(name):
        return None
    try:
        return parse_sealed(storage.read_bytes(name), f"{storage}/{name}")
    except StudyDataError as error:
        raise StudyError(f"{error}; {remedy}") from error
