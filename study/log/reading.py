"""Read a study log, and hold it against what its head promises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from study.events import Event
from study.log import head
from study.log.head import Extent, Head, Saved
from study.log.lines import ADVICE, CorruptLog, parse
from study.store.storage import Storage

FILE = "log.jsonl"
FOLDER = "log"
# Number and session; those of the first versions had no session in their names.
_PART = re.compile(r"(?:log/)?(\d{6})(?:-(\d{4,}))?\.jsonl")


def part(number: int, session: int) -> str:
    """Name of a part: no two processes ever write the same."""
    return f"{FOLDER}/{number:06d}-{session:04d}.jsonl"


def part_number(name: str | None) -> int | None:
    """The number in the name of a part, if it is one."""
    match = _PART.fullmatch(name or "")
    return int(match[1]) if match else None


def exists(storage: Storage) -> bool:
    """Whether a log stands in the folder, or did."""
    return bool(_files(storage)) or head.exists(storage)


def spans(storage: Storage) -> dict[str, int | None]:
    """The log's files in their order, and how many bytes of each count; None for all."""
    return _spans(storage, head.read(storage)[0])


def read(storage: Storage) -> list[Event]:
    """All events so far, also while another process writes. Empty if there is no log.

    Raises:
        CorruptLog: it is damaged before its end, or shorter than it was.
        StorageError: it cannot be read.
    """
    return load(storage).events


@dataclass(frozen=True)
class Loaded:
    """A log as it was found; ``tail`` is what is torn behind the ``good`` bytes of the last file.

    ``damaged`` are heads that cannot be read.
    """

    events: list[Event]
    head: Head
    extents: Mapping[str, Extent] = field(default_factory=dict)
    good: bytes = b""
    tail: bytes = b""
    damaged: tuple[str, ...] = ()

    @property
    def last(self) -> str | None:
        """The last file."""
        return list(self.extents)[-1] if self.extents else None


def load(storage: Storage) -> Loaded:
    """See :func:`read`. The head first: what grows meanwhile still holds what that promises."""
    promised, damaged = head.read(storage)
    events: list[Event] = []
    extents: dict[str, Extent] = {}
    good = tail = b""
    for name, limit in _spans(storage, promised).items():
        if tail:
            raise CorruptLog(f"{storage}/{name} follows a file that is cut short; {ADVICE}")
        data = storage.read_bytes(name)[:limit]
        found, length = parse(data, f"{storage}/{name}")
        events += found
        good, tail = data[:length], data[length:]
        extents[name] = Extent().plus(good)
        _compare(storage, name, good, promised.saved, len(events))
    _none_missing(storage, promised.saved, extents, len(events))
    return Loaded(events, promised, extents, good, tail, tuple(damaged))


def _compare(storage: Storage, name: str, good: bytes, saved: Saved, events: int) -> None:
    extent = saved.files.get(name, Extent())
    if extent.begins(good):
        return
    if len(good) < extent.length:
        gone = f"it had {extent.length:,} good bytes, now {len(good):,}"
        more = f"; {saved.events - events} of {saved.events} events are missing"
        gone += more if name == saved.open and events < saved.events else ""
    else:
        gone = f"its first {extent.length:,} bytes are others than those written here"
    raise CorruptLog(f"{storage}/{name}: {gone}; {_way_out()}")


def _none_missing(
    storage: Storage, saved: Saved, extents: Mapping[str, Extent], events: int
) -> None:
    if gone := [name for name in saved.files if name not in extents]:
        lost = f"with {saved.events - events} of {saved.events} events"
        raise CorruptLog(f"{storage}/{gone[0]} is gone, {lost}; {_way_out()}")
    numbers = [n for name in extents if (n := part_number(name)) is not None]
    if numbers != list(range(len(numbers))):
        absent = min(set(range(len(numbers))) - set(numbers))
        raise CorruptLog(f"{storage}/{FOLDER}: part {absent:06d} is gone; {ADVICE}")


def _way_out() -> str:
    return f"{ADVICE}; to go on with what is left, delete {' and '.join(head.NAMES)}"


def _files(storage: Storage) -> list[str]:
    """A log may be moved from one kind of filesystem to another, and go on there."""
    parts = [f"{FOLDER}/{name}" for name in storage.list(FOLDER) if _PART.fullmatch(name)]
    return [FILE, *parts] if storage.exists(FILE) else parts


def _spans(storage: Storage, promised: Head) -> dict[str, int | None]:
    return {n: promised.limit(n) for n in _files(storage) if not _late(n, promised)}


def _late(name: str, promised: Head) -> bool:
    """Whether a process that had lost the study made the file."""
    match = _PART.fullmatch(name)
    session = int(match[2]) if match and match[2] else None
    older = session is not None and session < promised.session
    return older and name not in promised.saved.files
