"""Lines of a log: an event each, with its length and checksum."""

from __future__ import annotations

import zlib

from study.errors import StudyError
from study.events import Event, decode, encode

ADVICE = "restore the file from a copy, or start a study under another --name"


class CorruptLog(StudyError, ValueError):
    """The log is damaged before its end; the message names file, line and byte offset."""


def frame(text: bytes) -> bytes:
    """``LENGTH CRC32 TEXT`` and a line end, length in bytes and checksum of the text."""
    return b"%d %08x %s\n" % (len(text), zlib.crc32(text), text)


def unframe(line: bytes) -> bytes | None:
    """The text of a line, given without its end; None if it is not whole."""
    length, _, rest = line.partition(b" ")
    checksum, _, text = rest.partition(b" ")
    whole = length == b"%d" % len(text) and checksum == b"%08x" % zlib.crc32(text)
    return text if whole else None


def to_line(event: Event) -> bytes:
    """The line of an event."""
    return frame(encode(event).encode())


def parse(data: bytes, name: str = "log") -> tuple[list[Event], int]:
    """The events in ``data`` and the length of its good part; what follows is a torn tail.

    Raises:
        CorruptLog: a good line follows a bad one, or a line's JSON is no event.
    """
    events: list[Event] = []
    offset = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        text = unframe(line) if number < len(lines) else None
        where = f"{name}: line {number} (byte {offset})"
        if text is None:
            if any(unframe(later) is not None for later in lines[number:]):
                raise CorruptLog(f"{where} is damaged, though good lines follow; {ADVICE}")
            break
        try:
            events.append(decode(text))
        except ValueError as error:
            raise CorruptLog(f"{where}: {error}") from error
        offset += len(line) + 1
    return events, offset
