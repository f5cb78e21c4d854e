"""A Ray that is started here is this process's own: it listens on loopback and asks for a token.

Whoever reaches Ray's ports runs code as its owner. Left to itself Ray 2.60 listens on every
address, and leaves its token in the home folder for all users to read.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"
# Whoever set one of these has decided otherwise.
_CHOICES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", TOKEN_FILE)


@contextmanager
def private() -> Iterator[None]:
    """Within it a Ray that starts in this process is private. Environment is put back."""
    with _on_loopback(), _with_token():
        yield


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray has this as ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0``, which is read at its import."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _with_token() -> Iterator[None]:
    if any(name in os.environ for name in _CHOICES):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="paretune-") as folder:  # that no other user can enter
        os.environ[TOKEN_FILE] = _write(os.path.join(folder, "ray-token"))
        _read_again()
        try:
            yield
        finally:
            for name in _CHOICES:  # Ray adds the mode
                os.environ.pop(name, None)
            _read_again()


def _write(path: str) -> str:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(file, "w") as stream:
        stream.write(secrets.token_hex(32))
    return path


def _read_again() -> None:
    """Ray keeps mode and token of the first time that it looked."""
    from ray import _raylet

    raylet: Any = _raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
