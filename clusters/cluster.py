"""A cluster's whole life: looked at, started or reused, entered, taken down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from clusters import derived, state
from clusters.check import Check
from clusters.errors import ClusterError, InvalidCluster, NotSetUp
from clusters.file import ClusterFile
from clusters.jobs import Jobs
from clusters.kinds import KINDS
from clusters.kinds.kind import Kind
from clusters.launcher import Launcher
from clusters.ssh import FAILED as SSH_FAILED
from clusters.ssh import RAY_RUNS, Ssh
from clusters.token import token_file

Say = Callable[[str], None]
_MARK = f"{derived.THERE}/derived.sha256"  # on the head: what it was set up by


@dataclass(frozen=True)
class Entrance:
    """An open way into a running cluster: its jobs, and where MLflow answers on this machine."""

    jobs: Jobs
    mlflow: str | None


class Cluster:
    """The cluster of a file. What is kept of it here is in a folder below ``home``."""

    def __init__(self, file: ClusterFile, home: Path) -> None:
        """Raises InvalidCluster: no such kind of cluster."""
        kind = file.provider.get("type")
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise InvalidCluster([f"{file.at('provider', 'type')}: '{kind}'; expected {known}"])
        self.file = file
        self.kind: Kind = KINDS[str(kind)]
        self.folder = state.folder(file, home)
        self._launcher = Launcher(self.folder / "cluster.yaml", self.folder, self.kind.refusal)

    @cached_property
    def token(self) -> Path:
        """The file with the cluster's secret."""
        return token_file(self.folder)

    def checks(self) -> list[Check]:
        """What can be known before a launch."""
        return list(self.kind.checks(self.file))

    def head(self) -> Ssh | None:
        """The head; None where the provider knows of none.

        It may have been started from another machine: its token is taken over.

        Raises:
            ClusterError: the provider cannot be asked, or there is a head and it does not answer.
                Nothing is to be started then, nor taken for ended: a study may run.
        """
        address = self._address()
        if address is None:
            return None
        ssh = Ssh.of(self.file, address)
        done = ssh.run(f"cat {derived.TOKEN} 2> /dev/null || true", timeout=15)
        if done.code:
            raise ClusterError(
                f"the head {address} is there and does not answer over ssh: {_last(done.error)}; "
                f"`{ssh.spelled}` must work (network, firewall or security group, key)"
            )
        if done.output.strip():
            self.token.write_text(done.output.strip())
        return ssh

    def _address(self) -> str | None:
        if not self._launcher.config.exists():
            self._write(self.file.data)
        return self.kind.head_address(self.file) or self._launcher.head_address()

    def _write(self, data: Mapping[str, Any]) -> None:
        self._launcher.config.touch(0o600)
        self._launcher.config.write_text(yaml.safe_dump(data, sort_keys=False))

    def up(self, requirements: Sequence[str], say: Say) -> bool:
        """Start it, unless it runs as it is to be; whether this call started it.

        What does not come up is taken down again; what may be at work is left alone.

        Raises:
            InvalidCluster: it runs otherwise than this file and these packages say, and is at work;
                or its nodes are not as they must be.
            ClusterError: it could not be started, or runs and does not answer.
        """
        head = self.head()
        data = derived.derive(self.file, self.kind, self.token, requirements, self.folder)
        wanted = derived.digest(data, self.folder)
        if head and self._same(head, wanted, say):
            return False
        self._write(data)
        say(f"starting cluster {self.file.name}")
        try:
            self._launcher.up(say)
            head = self.head()
            if head is None:
                raise ClusterError("the head was started and is gone")
        except (InvalidCluster, ClusterError, KeyboardInterrupt):
            say("ending what was started")
            say(self.down(say))
            raise
        head.run(f"umask 077; echo {wanted} > {_MARK}")
        return True

    def _same(self, head: Ssh, wanted: str, say: Say) -> bool:
        """Whether a head that answers can be used as it is."""
        if not at_work(head):
            return False
        with self.enter(head) as entrance:  # a Ray that does not answer is not started anew
            busy = [job.study for job in entrance.jobs.all() if job.active]
        if head.run(f"cat {_MARK}").output.strip() == wanted:
            say(f"cluster {self.file.name} runs at {head.host}")
            return True
        if busy:
            raise InvalidCluster(
                [
                    f"{self.file.document.source}: the cluster runs study '{busy[-1]}', set up by "
                    "another file or with other packages; wait for it, or end it with --stop"
                ]
            )
        return False

    @contextmanager
    def enter(self, head: Ssh, seconds: float = 30) -> Iterator[Entrance]:
        """Tunnels to the head, while it lasts.

        Raises:
            ClusterError: no way in.
        """
        ours = self.file.settings.tracking_uri is None
        ports = [derived.JOBS_PORT, *([derived.MLFLOW_PORT] if ours else [])]
        with head.tunnel(ports, seconds) as local:
            yield Entrance(
                Jobs(local[0], self.token), f"http://127.0.0.1:{local[1]}" if ours else None
            )

    def down(self, say: Say) -> str:
        """End all machines, whoever started them; says so only when none is left.

        Raises:
            ClusterError: it could not be ended.
        """
        try:
            head = self.head()
        except ClusterError as error:
            head = None
            if not isinstance(error, NotSetUp):  # which is what is to be ended
                say(str(error))
        if head:  # where machines stay, so would MLflow and what watches over it
            head.run(derived.END_KEEPER, timeout=30)
        self._launcher.down(say)
        self.kind.ended(self.file)
        self._check_ended()
        return f"cluster {self.file.name} ({self._place()}) is down"

    def _check_ended(self) -> None:
        address = self._address()
        if address is None:
            return
        if self.kind.head_address(self.file) is None:
            raise ClusterError(f"the head {address} is still there; look at the provider's console")
        if at_work(Ssh.of(self.file, address)):
            raise ClusterError(f"Ray still runs on {address}; run `ray stop` there")

    def _place(self) -> str:
        provider = self.file.provider
        words = (provider["type"], *(provider.get(key) for key in state.PLACE))
        return " ".join(str(word) for word in words if word)

    def cost(self) -> str:
        """What it costs an hour, by the file's prices: the head, and each worker type at most."""
        prices, parts = self.file.settings.price, list[str]()
        for name, most in self.kind.prices(self.file):
            if name in prices and most:
                times = f"up to {most} x " if most > 1 else ""
                parts.append(f"{name} {times}${prices[name]:g}")
        return ", ".join(parts)


def at_work(host: Ssh) -> bool:
    """Whether a Ray of ours runs there.

    Raises:
        ClusterError: the host does not answer.
    """
    done = host.run(RAY_RUNS, timeout=15)
    if done.code == SSH_FAILED:
        raise ClusterError(f"{host.host} does not answer over ssh: {_last(done.error)}")
    return done.code == 0


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no word"])[-1]
