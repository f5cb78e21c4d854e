"""Files from a cluster's head to this machine, by rsync, which Ray's launcher needs as well."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from clusters.errors import ClusterError
from clusters.ssh import Ssh


def fetch(head: Ssh, there: str, here: Path, seconds: float = 600) -> None:
    """Copy a folder of the head's; what is here already is not copied again.

    Raises:
        ClusterError: it could not be copied whole.
    """
    here.mkdir(parents=True, exist_ok=True)
    *ssh, target = head.command()
    words = ["rsync", "--archive", "--compress", "--partial", "--safe-links"]
    words += ["--rsh", shlex.join(ssh), f"{target}:{there}", f"{here}/"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    except FileNotFoundError:
        raise ClusterError("there is no rsync here; install it, then use --attach") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"fetching took more than {seconds:.0f} s; use --attach again") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word"]
        raise ClusterError(f"fetching the results failed: {said[-1]}; use --attach again")
