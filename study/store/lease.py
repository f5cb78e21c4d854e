"""One writer at a time for a study.

On this machine's disks the lease is a kernel lock, which a killed owner loses at once. Elsewhere it
is a small file with a heartbeat: a dead owner's lease is taken at once on its own host, elsewhere
once its file has not changed for :data:`EXPIRES_SECONDS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from study.store.storage import Storage, StorageError, reason

NAME = "lease.json"
BEAT_SECONDS = 10.0
EXPIRES_SECONDS = 60.0
SETTLE_SECONDS = 1.0


class LeaseHeld(StorageError):
    """Another process works on the study; the message says which."""

    passing = False


class LeaseLost(StorageError):
    """Another process took the lease over, e.g. after this one slept for minutes."""

    passing = False


class Lease(Protocol):
    """The right to write, until released."""

    def check(self) -> None:
        """Raise :class:`LeaseLost` if it is no longer ours."""

    def release(self) -> None:
        """Give it back; a second call does nothing."""


def take(storage: Storage) -> Lease:
    """Take the lease of the study in ``storage``.

    Where nothing else tells whether the owner lives, this watches its file for as long as a minute.

    Raises:
        LeaseHeld: a living process has it.
        StorageError: its file cannot be written.
    """
    if storage.is_local:
        try:
            return _FileLock(storage)
        except _NoLocks:
            return _Heartbeat(storage)  # some network disks look local and cannot lock
    return _Heartbeat(storage)


def process_name() -> str:
    """A word for this process that no other process has had or will have."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{_start_time(pid) or ''}"


def process_alive(name: str) -> bool | None:
    """Whether the process of this :func:`process_name` lives; None if that can't be told here."""
    host, _, rest = name.rpartition(":")[0].rpartition(":")
    started = name.rpartition(":")[2]
    if host != socket.gethostname() or not started or not rest.isdigit():
        return None
    return _start_time(int(rest)) == started


def _about_me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": process_name(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "token": uuid.uuid4().hex,
    }


def _start_time(pid: int) -> str | None:
    """When a process began, as Linux counts; None if it is dead or the system doesn't say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if state == b"Z" else fields[18].decode()


def _refusal(storage: Storage, owner: dict[str, Any]) -> LeaseHeld:
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
    return LeaseHeld(
        f"{storage} is being written by {who} since {owner.get('since', '?')}; "
        "wait for it, stop it, or choose another --name"
    )


class _NoLocks(Exception):
    """The system or this network disk has no kernel locks."""


# Children that fork without exec would keep a dead owner's lock alive.
_held: weakref.WeakSet[_FileLock] = weakref.WeakSet()


def _drop_in_child() -> None:
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_child)


class _FileLock:
    def __init__(self, storage: Storage) -> None:
        try:
            import fcntl
        except ImportError as error:
            raise _NoLocks from error
        storage.make()
        self._storage, self._path, self._file = storage, storage.path(NAME), -1
        with self._saying():
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _parse(os.read(self._file, 4096))
            os.close(self._file)
            raise _refusal(storage, owner) from error
        except OSError as error:
            os.close(self._file)
            raise _NoLocks from error
        _held.add(self)
        with self._saying():
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(_about_me()).encode(), 0)

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            raise StorageError(f"cannot take {self._storage}/{NAME}: {reason(error)}") from error

    def check(self) -> None:
        """The kernel keeps the lock for us, but on this very file: another one is another lock."""
        try:
            same = os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            same = False
        if not same:
            raise LeaseLost(f"{self._storage}/{NAME} was deleted or replaced; --resume goes on")

    def release(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):  # a disk that is read-only now: the lock goes anyway
                os.ftruncate(self._file, 0)
        self.close()

    def close(self) -> None:
        """Let go of the file without unlocking it for other holders of the same descriptor."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Heartbeat:
    """A file that its owner writes anew every :data:`BEAT_SECONDS`.

    Whether an owner on another host lives is seen by its file changing, on the observer's own clock
    that nobody sets: what time it is said to be, there or here, does not matter.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage, self._me, self._beats = storage, _about_me(), 0
        if (owner := self._read()) and self._lives(owner):
            raise _refusal(storage, owner)
        self._lock, self._done = threading.Lock(), threading.Event()
        self._lost: str | None = None
        self._claim()
        if self._lost:
            raise _refusal(storage, self._read())
        self._thread = threading.Thread(target=self._keep, name="paretune-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Certain for a while after each beat; else, after a sleep or an outage, look first."""
        with self._lock:
            if not self._lost and _clock() - self._beaten > EXPIRES_SECONDS / 2:
                self._look()
                if not self._lost:
                    self._claim()
        if self._lost:
            raise LeaseLost(self._lost)

    def release(self) -> None:
        if self._done.is_set():
            return
        self._done.set()
        self._thread.join()
        with contextlib.suppress(StorageError):  # then it expires
            if not self._lost and self._read().get("token") == self._me["token"]:
                self._storage.delete(NAME)

    def _lives(self, owner: dict[str, Any]) -> bool:
        alive = process_alive(str(owner.get("process", "")))
        if alive is not None:
            return alive
        until = _clock() + EXPIRES_SECONDS
        while _clock() < until:
            time.sleep(min(BEAT_SECONDS, EXPIRES_SECONDS) / 5)
            if (now := self._read()) != owner:
                return bool(now)  # it beat, or it went
        return False

    def _claim(self) -> None:
        """Of two that come at once, the last to write has it."""
        self._beat()
        time.sleep(SETTLE_SECONDS)
        self._look()

    def _keep(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            # An outage is no loss: `check` tells whoever wants to write, and looks afterwards.
            with self._lock, contextlib.suppress(StorageError):
                self._look()
                if self._lost:
                    return
                self._beat()

    def _look(self) -> None:
        if (owner := self._read()).get("token") != self._me["token"]:
            who = f"process {owner.get('pid')} on {owner.get('host')}" if owner else "another one"
            self._lost = f"{self._storage} was taken over by {who}; this process writes no more"

    def _beat(self) -> None:
        self._beats += 1
        self._storage.write_text(NAME, json.dumps(self._me | {"beats": self._beats}))
        self._beaten = _clock()

    def _read(self) -> dict[str, Any]:
        if not self._storage.exists(NAME):
            return {}
        return _parse(self._storage.read_bytes(NAME))


def _clock() -> float:
    """Seconds that nobody sets, also those that this machine slept."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _parse(data: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        owner = json.loads(data)
        if isinstance(owner, dict):
            return owner
    return {}
