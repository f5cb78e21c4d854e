"""The processes of a study that a test started, found by their parents and killed by their ids."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

TRIAL = b"ray::ResourceTrainable"  # what Ray calls a process that runs a trial
RAYLET = b"raylet/raylet"


def _stat(pid: int) -> tuple[str, int, str] | None:
    """State, parent and start time; None of a process that is gone or only not yet waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else (fields[0].decode(), int(fields[1]), fields[19].decode())


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> dict[int, str]:
    """Start times of all processes below one, by id."""
    found = {int(p.name): _stat(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    living = {number: stat for number, stat in found.items() if stat is not None}
    below: dict[int, str] = {}
    while True:
        more = {
            number: stat[2]
            for number, stat in living.items()
            if number not in below and (stat[1] == pid or stat[1] in below)
        }
        if not more:
            return below
        below |= more


def named(pid: int, word: bytes) -> list[int]:
    """Ids of the processes below one whose command holds a word."""
    return sorted(number for number in descendants(pid) if word in command_line(number))


def kill(pid: int) -> bool:
    """SIGKILL to one process; whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def left_of(processes: dict[int, str], seconds: float, but: bytes | None = None) -> list[bytes]:
    """Commands of those that live on after so many seconds, but for those with a word."""
    deadline = time.monotonic() + seconds
    while True:
        living = [p for p, began in processes.items() if (s := _stat(p)) and s[2] == began]
        left = [command_line(p).strip(b"\0 ")[:80] for p in living]
        left = [command for command in left if but is None or but not in command]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)
