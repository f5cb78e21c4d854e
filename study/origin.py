"""Where a result is made: commit, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trainables.record import Fingerprint, Origin

PACKAGES = ("paretune", "torch", "peft", "optuna", "ray", "mlflow")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def commit() -> tuple[str, bool | None]:
    """Commit of the checkout that this code runs from, and whether it was changed since."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        run = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=10
        )
        return run.stdout.strip() if run.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        return (head, bool(git("status", "--porcelain", "-uno"))) if head else ("", None)
    except (OSError, subprocess.TimeoutExpired):
        return "", None


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def origin(fingerprint: Fingerprint, plugins: Mapping[str, str], device: str) -> Origin:
    """The origin of a record that is made now."""
    head, dirty = commit()
    return Origin(
        fingerprint=fingerprint,
        commit=head,
        dirty=dirty,
        versions=versions(),
        device=f"{platform.machine()} {device}",
        plugins=dict(plugins),
        started=now(),
    )
