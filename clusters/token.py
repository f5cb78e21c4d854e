"""The secret that a cluster's processes and its user share: one to a cluster, in a private file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def token_file(folder: Path) -> Path:
    """The file, made with a new secret if it is not there; nobody else can read it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "auth_token"
    if not path.exists():
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "w") as stream:
            stream.write(secrets.token_hex(32))
    path.chmod(0o600)
    return path


def headers(path: Path) -> dict[str, str]:
    """What a request to the cluster's servers carries."""
    return {"Authorization": f"Bearer {path.read_text().strip()}"}
