"""OpenSSH: commands on a host, and tunnels to what listens on its loopback."""

from __future__ import annotations

import os
import shlex
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clusters.check import Check
from clusters.errors import ClusterError
from clusters.file import ClusterFile

OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=no",  # as Ray's launcher: the hosts of a cloud are new each time
    "UserKnownHostsFile=/dev/null",
    "LogLevel=ERROR",
    "ExitOnForwardFailure=yes",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
)

FAILED = 255  # the exit code of ssh itself

# Shell: succeeds where a Ray of this user runs. A process that has ended and for whose end nobody
# asked, as where a container's first process is no init, still has its name: it is none. Without
# /proc, which tells them apart, it is one: better that than to call a machine idle that works.
RAY_RUNS = (
    'for pid in $(pgrep -u "$(id -u)" -x "gcs_server|raylet"); do '
    "[ -d /proc/self ] || exit 0; "
    'read -r about < /proc/$pid/stat && case "${about##*) }" in Z*) ;; *) exit 0 ;; esac; '
    "done 2> /dev/null; exit 1"
)


@dataclass(frozen=True)
class Done:
    """How a command ended; :data:`FAILED` where ssh did not get there."""

    code: int
    output: str
    error: str


@dataclass(frozen=True)
class Ssh:
    """A host, and how it is entered."""

    host: str
    user: str
    key: str = ""
    proxy: str = ""

    @classmethod
    def of(cls, file: ClusterFile, host: str) -> Ssh:
        """A host of a cluster, by its file's ``auth``."""
        auth = file.auth
        key = os.path.expanduser(auth.get("ssh_private_key") or "")
        return cls(host, auth.get("ssh_user", ""), key, auth.get("ssh_proxy_command") or "")

    @property
    def spelled(self) -> str:
        """As a person types it."""
        key = ["-i", self.key] if self.key else []
        return shlex.join(["ssh", *key, self._target])

    @property
    def _target(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host

    def command(self, *options: str, seconds: float = 10) -> list[str]:
        """The words of a call, up to the command that is to run there."""
        words = [*OPTIONS, f"ConnectTimeout={max(1, round(seconds))}"]
        if self.key:
            words += ["IdentitiesOnly=yes", f"IdentityFile={self.key}"]
        if self.proxy:
            words.append(f"ProxyCommand={self.proxy}")
        return ["ssh", *(f"-o{word}" for word in words), *options, self._target]

    def run(self, command: str, timeout: float = 60, stdin: str = "") -> Done:
        """Run a shell command there; what takes longer than ``timeout`` seconds failed."""
        words = [*self.command(seconds=min(timeout, 10)), command]
        try:
            done = subprocess.run(
                words, input=stdin, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return Done(FAILED, "", f"no end of `{command}` within {timeout:g} s")
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def tunnel(self, ports: Sequence[int], seconds: float = 15) -> Iterator[list[int]]:
        """Ports of this machine's loopback that lead to those of the host's, while it lasts.

        Raises:
            ClusterError: no tunnel came up in so many seconds.
        """
        local = _free(len(ports))
        pairs = [f"-L127.0.0.1:{a}:127.0.0.1:{b}" for a, b in zip(local, ports, strict=True)]
        process = subprocess.Popen(
            self.command("-N", "-T", *pairs, seconds=seconds),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, not for it
        )
        try:
            _wait(process, local, seconds)
            yield local
        finally:
            process.terminate()
            process.communicate()


def _wait(process: subprocess.Popen[str], ports: Sequence[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not all(map(_listens, ports)):
        if process.poll() is not None:
            said = (process.stderr.read() if process.stderr else "").strip()
            raise ClusterError(f"no tunnel: {said or 'ssh ended'}")
        if time.monotonic() > end:
            raise ClusterError(f"no tunnel within {seconds:g} s")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def key_check(file: ClusterFile) -> Check:
    """Whether the private key that the file names is there, and nobody else's to read."""
    named = file.auth.get("ssh_private_key")
    if not named:
        return Check("ssh key", "none named: ssh's own configuration decides")
    path, where = Path(named).expanduser(), file.at("auth", "ssh_private_key")
    if not path.is_file():
        return Check("ssh key", problem=f"{where}: there is no {path}", mend="name a key that is")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Check(
            "ssh key",
            problem=f"{where}: others can read {path}, so ssh refuses it",
            mend=f"chmod 600 {path}",
        )
    return Check("ssh key", str(path))
