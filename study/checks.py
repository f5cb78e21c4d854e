"""Checks that need the world: the storage, the studies in it, the tracking server."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from study import log
from study.fields.sections import Resources
from study.finished import study_names
from study.store import lease
from study.store.storage import Storage, StorageError
from study.tracking import TrackingError, check_reachable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MISSING: Any = object()


def storage_problem(uri: str) -> str | None:
    """Whether files can be written there; tried by writing one."""
    try:
        storage = Storage.open(uri)
        made = storage.is_local and not storage.exists()
        storage.check_writable()
        if made:
            os.rmdir(storage.root)  # a check leaves nothing behind
    except StorageError as error:
        return str(error)
    return None


def tracking_problem(uri: str | None) -> str | None:
    """Whether MLflow answers there, within 10 s. None is the local store."""
    try:
        if uri is not None:
            check_reachable(uri)
    except TrackingError as error:
        return str(error)
    return None


def address_problem(address: str | None, timeout: float = 5.0) -> str | None:
    """Whether something answers where a Ray cluster is said to be; ``auto`` is Ray's to find."""
    if address in (None, "auto", "local"):
        return None
    parts = urlsplit(address if "://" in str(address) else f"ray-gcs://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        return f"expected auto, HOST:PORT or ray://HOST:PORT, got '{address}'"
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError as error:
        return f"no Ray cluster answers at '{address}': {error.strerror or error}"
    return None


def cores() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resources_problem(resources: Resources) -> str | None:
    """Whether this machine has what one trial is to get."""
    if resources.cpus > cores():
        return f"cpus: {resources.cpus} for a trial; this machine has {cores()}"
    if resources.gpus == "auto" or not resources.gpus:
        return None
    import torch

    found = torch.cuda.device_count()
    if resources.gpus <= found:
        return None
    return f"gpus: {resources.gpus:g} for a trial; torch {torch.__version__} sees {found} here"


def accelerator_problem(budget: float | None) -> str | None:
    """Whether this machine has GPUs whose seconds can be counted."""
    if budget is None:
        return None
    import torch

    if torch.cuda.device_count():
        return None
    return f"torch {torch.__version__} sees no GPU here; set time_budget instead"


def name_problem(uri: str, name: str, resume: bool) -> str | None:
    """Whether a study of this name can start in the storage, or go on there."""
    if not _NAME.fullmatch(name):
        return f"'{name}' must begin with a letter or digit and have only these and . _ - after it"
    try:
        storage = Storage.open(uri)
        if resume and not log.exists(storage.sub(name)):
            found = ", ".join(study_names(storage)[-5:]) or "none"
            return f"no study '{name}' to resume in {storage}; there: {found}"
        # A lease alone is what a study leaves that was killed before it began.
        if not resume and set(storage.sub(name).list()) - {lease.NAME}:
            return f"'{name}' exists in {storage}; add --resume to go on with it, or name another"
    except StorageError:
        return None  # storage_problem says it better
    return None


def new_name(prefix: str) -> str:
    """The config's name and the time, UTC."""
    return f"{prefix}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def newest_name(uri: str, prefix: str) -> str | None:
    """The last study that :func:`new_name` named so; what ``--resume`` alone means."""
    try:
        names = study_names(Storage.open(uri))
    except StorageError:
        return None
    own = re.compile(re.escape(prefix) + r"-\d{8}-\d{6}")
    return max(filter(own.fullmatch, names), default=None)


def identity_errors(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """One line for each setting in which a study differs from the one to be resumed."""
    return [
        f"resume: {key}: the study has {_shown(old)}, now asked: {_shown(new)}"
        for key, old, new in _differences(stored, asked, ())
    ]


def _differences(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(
                old.get(key, _MISSING), new.get(key, _MISSING), (*path, str(key))
            )
    elif old != new:
        yield ".".join(path), old, new


def _shown(value: Any) -> str:
    return "nothing" if value is _MISSING else json.dumps(value)
