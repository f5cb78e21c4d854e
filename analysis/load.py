"""Reads a study: `study.json` and the tables beside it, from a path or a URI."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyarrow import fs, parquet

from analysis.settings import Defaults
from analysis.study_info import problems
from trainables.record import SCHEMA, Record, RecordError, Verification, from_json, parse_json

__all__ = ["Row", "StudyData", "StudyDataError", "find_study", "load_study", "open_folder"]

DEFAULT_STORAGE = "results"
RECORDS = "records/records.parquet"
VERIFICATIONS = "records/verifications.parquet"
SPEED = "speed.json"
RUNS = "runs.json"
RUN = re.compile(r"https?://[^\s\"'<>]+/#/experiments/\w+/runs/\w+(?:\?workflowType=\w+)?")
CHECKSUM = "checksum"


class StudyDataError(ValueError):
    """A study cannot be read or reported; the message is one sentence for its user."""


@dataclass(frozen=True)
class Row:
    """One finished trial and why it ran: ``search`` or the name of a baseline."""

    record: Record
    role: str = "search"
    number: int = 0


@dataclass(frozen=True)
class StudyData:
    """What a report is made of. ``info`` is the content of `study.json`, ``speed`` of `speed.json`.

    The latter is there once ``python -m study.speed`` has timed the study's front. ``runs`` is
    where a browser finds the runs of the front in MLflow, by trial id, as far as that is known.
    """

    name: str
    info: Mapping[str, Any]
    rows: tuple[Row, ...]
    verifications: Mapping[str, Verification] = field(default_factory=dict)
    location: str = ""
    speed: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def defaults(self) -> Defaults:
        """What its records leave out.

        Raises:
            StudyDataError: `study.json` states it in another form.
        """
        if "defaults" not in self.info:
            searched = [row.record.trial for row in self.rows if row.role == "search"]
            return Defaults.given_away(self.info, searched)
        wrong = list(problems({"defaults": self.info["defaults"]}))
        if wrong:
            raise StudyDataError(f"{self.location or self.name}: {wrong[0]}")
        return Defaults.stated(self.info)

    @cached_property
    def varied(self) -> Defaults:
        """Of :attr:`defaults` those of options that differ among its trials: worth saying shortly.

        Raises:
            StudyDataError: as :attr:`defaults`.
        """
        return self.defaults.varied([row.record.trial for row in self.rows])


def open_folder(location: str) -> tuple[fs.FileSystem, str]:
    """Filesystem and path of a local path or URI.

    Raises:
        StudyDataError: A URI that no filesystem knows.
    """
    if "://" not in location:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StudyDataError(f"{location}: cannot be opened: {error}") from error
    return filesystem, path.rstrip("/")


def _is_file(filesystem: fs.FileSystem, path: str) -> bool:
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def find_study(given: str | None, storage: str = DEFAULT_STORAGE) -> str | None:
    """Location of a study: as given, by its name in ``storage``, or the newest there.

    Returns:
        A path or URI that holds `study.json`, or None.
    """
    for candidate in [given, f"{storage}/{given}"] if given else []:
        filesystem, path = open_folder(candidate)
        if _is_file(filesystem, f"{path}/study.json"):
            return candidate
    if given:
        return None
    filesystem, path = open_folder(storage)
    entries = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    studies = filesystem.get_file_info([f"{entry.path}/study.json" for entry in entries])
    found = [s for s in studies if s.type == fs.FileType.File]
    newest = max(found, key=lambda s: (s.mtime_ns, s.path), default=None)
    return f"{storage}/{newest.path.split('/')[-2]}" if newest else None


def load_study(location: str) -> StudyData:
    """Read a study's folder.

    Args:
        location: Path or URI of ``STORAGE/NAME``.

    Raises:
        StudyDataError: The folder, one of its files or a record cannot be read; says which and why.
    """
    filesystem, path = open_folder(location)
    if not _is_file(filesystem, f"{path}/study.json"):
        raise StudyDataError(f"{location}: no study here: it has no study.json")
    if not _is_file(filesystem, f"{path}/{RECORDS}"):
        raise StudyDataError(
            f"{location}: no finished trial yet: it has no {RECORDS}; "
            "let the study run, or continue it with --resume"
        )
    info = _read_info(filesystem, path, location, "study.json")
    rows = _read_rows(filesystem, f"{path}/{RECORDS}")
    verifications: dict[str, Verification] = {}
    if _is_file(filesystem, f"{path}/{VERIFICATIONS}"):
        verifications = _read_verifications(filesystem, f"{path}/{VERIFICATIONS}")
    name = str(info.get("name") or path.rsplit("/", 1)[-1])
    timed = _is_file(filesystem, f"{path}/{SPEED}")
    speed = _read_info(filesystem, path, location, SPEED) if timed else {}
    runs = _read_runs(filesystem, path, location)
    return StudyData(name, info, rows, verifications, location, speed, runs)


def _read_runs(filesystem: fs.FileSystem, path: str, location: str) -> dict[str, str]:
    """Addresses of runs. They become links of a page: a study from others may have anything there.

    Raises:
        StudyDataError: something else stands there.
    """
    if not _is_file(filesystem, f"{path}/{RUNS}"):
        return {}
    with filesystem.open_input_stream(f"{path}/{RUNS}") as stream:
        found = parse_sealed(stream.read(), f"{location}/{RUNS}")
    if not all(isinstance(link, str) and RUN.fullmatch(link) for link in found.values()):
        raise StudyDataError(f"{location}/{RUNS}: expected addresses of runs in MLflow; remove it")
    return found


def _read_info(filesystem: fs.FileSystem, path: str, location: str, name: str) -> dict[str, Any]:
    with filesystem.open_input_stream(f"{path}/{name}") as stream:
        return parse_info(stream.read(), f"{location}/{name}")


def parse_info(text: str | bytes, where: str) -> dict[str, Any]:
    """The content of a `study.json`.

    Raises:
        StudyDataError: Not as it was written, of another form, or of a later version.
    """
    info = parse_sealed(text, where)
    check_schema(info, where)
    if found := list(problems(info)):
        raise StudyDataError("; ".join(f"{where}: {text}" for text in found))
    return info


def parse_sealed(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object without its checksum, which files of earlier versions lack.

    Raises:
        StudyDataError: Not JSON, not an object, or not as it was written.
    """
    try:
        found = parse_json(text)
    except RecordError as error:
        raise StudyDataError(f"{where}: {error}") from error
    if not isinstance(found, dict):
        raise StudyDataError(f"{where}: expected an object, got {type(found).__name__}")
    if (stated := found.pop(CHECKSUM, None)) not in (None, checksum(found)):
        raise StudyDataError(f"{where}: is damaged: its checksum is not {stated!r}")
    return found


def checksum(info: Mapping[str, Any]) -> str:
    """Eight digits of what an object says, whatever its layout: the CRC-32 of its JSON."""
    text = json.dumps(info, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def check_schema(data: Mapping[str, Any], where: str) -> None:
    """Refuse what a later version of the software wrote.

    Raises:
        StudyDataError: The schema is newer, or not a number.
    """
    schema = data.get("schema", 1)
    if type(schema) is not int or schema > SCHEMA:
        raise StudyDataError(
            f"{where}: has schema {schema!r}, this version reads up to {SCHEMA}; "
            "upgrade it: pip install -U paretune"
        )


def parse_record(text: str, where: str) -> Record:
    """A record from its JSON.

    Raises:
        StudyDataError: Not a record, of a later version, or with a number that is not finite.
    """
    try:
        data = parse_json(text)
        check_schema(data if isinstance(data, dict) else {}, where)
        return from_json(Record, data)
    except StudyDataError:
        raise
    except (RecordError, ValueError, TypeError) as error:
        raise StudyDataError(f"{where}: {error}") from error


def parse_verification(text: str, where: str) -> Verification:
    """A verification from its JSON.

    Raises:
        StudyDataError: Not a verification.
    """
    try:
        return from_json(Verification, parse_json(text))
    except (RecordError, ValueError, TypeError) as error:
        raise StudyDataError(f"{where}: {error}") from error


def _read_columns(filesystem: fs.FileSystem, path: str, names: Iterable[str]) -> list[list[Any]]:
    try:
        table = parquet.read_table(path, filesystem=filesystem, page_checksum_verification=True)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        reason = str(error).splitlines()[0]
        raise StudyDataError(f"{path}: is not a readable Parquet file: {reason}") from error
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise StudyDataError(f"{path}: has no column {', '.join(missing)}")
    try:
        return [table.column(name).to_pylist() for name in names]
    except ValueError as error:  # bytes that are no text
        raise StudyDataError(f"{path}: is damaged: {error}") from error


def _read_rows(filesystem: fs.FileSystem, path: str) -> tuple[Row, ...]:
    columns = _read_columns(filesystem, path, ["record_json", "role", "number"])
    return tuple(
        Row(parse_record(text, f"{path}: trial number {number}"), role, number)
        for text, role, number in zip(*columns, strict=True)
    )


def _read_verifications(filesystem: fs.FileSystem, path: str) -> dict[str, Verification]:
    # The last one of a trial counts: verifications are appended, never edited.
    columns = _read_columns(filesystem, path, ["trial_id", "verification_json"])
    return {
        trial_id: parse_verification(text, f"{path}: {trial_id}")
        for trial_id, text in zip(*columns, strict=True)
    }
