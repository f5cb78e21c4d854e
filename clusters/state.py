"""What this machine keeps of a cluster: the launcher's file, the token, logs.

To lose it does no harm: the provider still knows the machines, and the head has the token.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from clusters.file import ClusterFile

PLACE = ("region", "project_id", "head_ip")  # of a provider: names are one cluster's within it


def home() -> Path:
    """``$PARETUNE_STATE``, else ``paretune`` in ``$XDG_STATE_HOME`` or in ``~/.local/state``."""
    if given := os.environ.get("PARETUNE_STATE"):
        return Path(given)
    usual = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    return usual.expanduser() / "paretune"


def folder(file: ClusterFile, below: Path) -> Path:
    """The cluster's own, made private; another provider, region or project has another one."""
    provider = file.provider
    where = [str(provider[key]) for key in PLACE if key in provider]
    words = [str(provider.get("type")), *where, file.name]
    path = below / "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", word) for word in words)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
