"""A cluster's whole life: looked at, started or reused, entered, taken down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from clusters import derived
from clusters.check import Check
from clusters.errors import ClusterError, InvalidCluster
from clusters.file import ClusterFile
from clusters.jobs import Jobs
from clusters.kinds import KINDS
from clusters.kinds.kind import Kind
from clusters.launcher import Launcher
from clusters.ssh import Ssh
from clusters.token import token_file

Say = Callable[[str], None]
_MARK = f"{derived.THERE}/derived.sha256"  # on the head: what it was set up by


@dataclass(frozen=True)
class Entrance:
    """An open way into a running cluster: its jobs, and where MLflow answers on this machine."""

    jobs: Jobs
    mlflow: str | None


class Cluster:
    """The cluster of a file. What is kept of it here (token, derived file, logs) is in ``home``."""

    def __init__(self, file: ClusterFile, home: Path) -> None:
        """Raises InvalidCluster: no such kind of cluster."""
        kind = file.provider.get("type")
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise InvalidCluster([f"{file.at('provider', 'type')}: '{kind}'; expected {known}"])
        self.file = file
        self.kind: Kind = KINDS[str(kind)]
        self.folder = home / file.name
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._launcher = Launcher(self.folder / "cluster.yaml", self.folder)

    @cached_property
    def token(self) -> Path:
        """The file with the cluster's secret."""
        return token_file(self.folder)

    def checks(self) -> list[Check]:
        """What can be known before a launch."""
        return list(self.kind.checks(self.file))

    def head(self) -> Ssh | None:
        """The head, if there is one that answers over ssh."""
        if not self._launcher.config.exists():
            return None
        address = self._address()
        ssh = Ssh.of(self.file, address) if address else None
        return ssh if ssh and ssh.run("true", timeout=15).code == 0 else None

    def _address(self) -> str | None:
        return self.kind.head_address(self.file) or self._launcher.head_address()

    def up(self, requirements: Sequence[str], say: Say) -> bool:
        """Start it, unless it runs as it is to be; whether this call started it.

        What does not come up is taken down again.

        Raises:
            InvalidCluster: it runs otherwise than this file and these packages say, and is at work;
                or its nodes are not as they must be.
            ClusterError: it could not be started, or runs and does not answer.
        """
        data = derived.derive(self.file, self.kind, self.token, requirements, self.folder)
        wanted = derived.digest(data, self.folder)
        head = self.head()
        if head and self._same(head, wanted, say):
            return False
        self._launcher.config.touch(0o600)
        self._launcher.config.write_text(yaml.safe_dump(data, sort_keys=False))
        say(f"starting cluster {self.file.name}")
        try:
            self._launcher.up(say)
            head = self.head()
            if head is None:
                raise ClusterError("the head was started and does not answer over ssh")
        except (InvalidCluster, ClusterError, KeyboardInterrupt):
            say("ending what was started")
            say(self.down(say))
            raise
        head.run(f"umask 077; echo {wanted} > {_MARK}")
        return True

    def _same(self, head: Ssh, wanted: str, say: Say) -> bool:
        """Whether a head that answers can be used as it is."""
        try:
            with self.enter(head, seconds=5) as entrance:
                busy = [job.study for job in entrance.jobs.all() if job.active]
        except ClusterError as error:
            if head.run("pgrep -x gcs_server").code == 0:  # perhaps at work: it is not started anew
                raise ClusterError(
                    f"Ray runs on {head.host}, but {error}; try again, or --down"
                ) from error
            return False
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
        """End all machines; says so only when none is left.

        Raises:
            ClusterError: it could not be ended.
        """
        if not self._launcher.config.exists():
            return f"cluster {self.file.name} was not started from here: nothing to end"
        if head := self.head():  # where machines stay, so would MLflow and what watches over it
            head.run(derived.END_KEEPER, timeout=30)
        self._launcher.down(say)
        self.kind.ended(self.file)
        if address := self._address():
            left = Ssh.of(self.file, address).run("pgrep -x raylet || true", timeout=15)
            if left.code == 0 and left.output.strip():
                raise ClusterError(f"Ray still runs on {address}; run `ray stop` there")
        return f"cluster {self.file.name} is down"

    def cost(self) -> str:
        """What it costs an hour, by the file's prices: the head, and each worker type at most."""
        prices, parts = self.file.settings.price, list[str]()
        for name, most in self.kind.prices(self.file):
            if name in prices and most:
                times = f"up to {most} x " if most > 1 else ""
                parts.append(f"{name} {times}${prices[name]:g}")
        return ", ".join(parts)
