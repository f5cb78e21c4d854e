"""Results that cost time to make, kept by the hash of everything they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """``$PARETUNE_CACHE``, else ``paretune`` in the user's cache folder."""
    if chosen := os.environ.get("PARETUNE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paretune"


def cached(key: str, make: Callable[[], bytes]) -> bytes:
    """The bytes stored under ``key``, made and stored first where they are absent or damaged.

    Written aside and renamed, so that another process sees all of it or nothing. A cache that can't
    be written costs time, not the result.
    """
    path = folder() / hashlib.sha256(key.encode()).hexdigest()
    if (found := _read(path)) is not None:
        return found
    data = make()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            file = Path(aside, path.name)
            file.write_bytes(hashlib.sha256(data).digest() + data)
            os.replace(file, path)
    return data


def _read(path: Path) -> bytes | None:
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    checksum, data = stored[:32], stored[32:]
    return data if hashlib.sha256(data).digest() == checksum else None
