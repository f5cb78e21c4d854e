"""The study log: an append-only list of events, the one source of truth of a study.

One event a line: ``LENGTH CRC32 JSON``, length in bytes and checksum of the JSON. A line that a
crash tore off at the end is put aside by the next writer; damage before the end is refused, and so
is a log that is shorter than its head says (:mod:`study.log.head`).

On this machine's disks the log is one file, ``log.jsonl``: an event that was appended survives the
death of the process, and within a second that of the machine. On a filesystem that cannot append it
is a row of files, ``log/000000-0001.jsonl`` and so on, written once a second.
"""

from study.log.event_log import EventLog
from study.log.lines import CorruptLog, parse, to_line
from study.log.reading import FILE, FOLDER, exists, read, spans

__all__ = [
    "FILE",
    "FOLDER",
    "CorruptLog",
    "EventLog",
    "exists",
    "parse",
    "read",
    "spans",
    "to_line",
]
