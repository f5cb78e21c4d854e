"""Machines that are there, reached over ssh: Ray's ``local`` provider."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from clusters.check import Check
from clusters.errors import ClusterError
from clusters.file import ClusterFile
from clusters.kinds.kind import Kind
from clusters.ssh import RAY_RUNS, Ssh, key_check

_KEY = "ray_bootstrap_key.pem"  # at home on the head: Ray's launcher copies the user's there


class OnPrem(Kind):
    """The hosts of ``provider.head_ip`` and ``provider.worker_ips``."""

    name = "local"

    def checks(self, file: ClusterFile) -> Iterator[Check]:
        """The key, and every host: it answers, with the right Python."""
        provider = file.provider
        if "head_ip" not in provider:
            where = file.at("provider", "head_ip")
            yield Check("hosts", problem=f"{where} is missing", mend="name the head's address")
            return
        key = key_check(file)
        yield key
        if key.failed:
            return
        hosts = [provider["head_ip"], *provider.get("worker_ips", [])]
        with ThreadPoolExecutor(len(hosts)) as pool:
            yield from pool.map(lambda host: _host(file, str(host)), hosts)

    def guard_command(self, file: ClusterFile) -> str | None:
        """Nobody's machines are shut down."""
        return None

    def ended(self, file: ClusterFile) -> None:
        """The workers' Ray: the launcher stops the head's, and theirs would wait for it.

        And the copy of the private key with which the head started them.
        """
        Ssh.of(file, str(file.provider["head_ip"])).run(f"rm -f ~/{_KEY}", timeout=30)
        workers = [str(host) for host in file.provider.get("worker_ips", [])]
        if not workers:
            return
        stop = f"ray stop; ! ({RAY_RUNS})"
        with ThreadPoolExecutor(len(workers)) as pool:
            done = [*pool.map(lambda host: Ssh.of(file, host).run(stop, timeout=60), workers)]
        left = [host for host, each in zip(workers, done, strict=True) if each.code]
        if left:
            raise ClusterError(f"Ray may still run on {', '.join(left)}: run `ray stop` there")

    def environment(self) -> Mapping[str, str]:
        """The first autoscaler.

        The second takes the head for one of the workers and starts one too few (Ray 2.60). It asks
        no cloud, so it may look each second; every 5 s is Ray's own.
        """
        return {"RAY_enable_autoscaler_v2": "0", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}

    def head_address(self, file: ClusterFile) -> str | None:
        """As the file says."""
        return str(file.provider["head_ip"])

    def prices(self, file: ClusterFile) -> Iterator[tuple[str, int]]:
        """``head`` and ``worker``: what a machine's hour is worth to its owner."""
        yield "head", 1
        yield "worker", len(file.provider.get("worker_ips", []))

    def idle_command(self, file: ClusterFile) -> str:
        """Ends Ray on the head, then on the workers: these would wait five minutes for a head."""
        key = ["-i", _KEY] if file.auth.get("ssh_private_key") else []
        options = ["-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oConnectTimeout=10"]
        user = file.auth.get("ssh_user")
        commands = ["ray stop"]
        for host in file.provider.get("worker_ips", []):
            target = f"{user}@{host}" if user else str(host)
            commands.append(shlex.join(["ssh", *options, *key, target, "ray stop"]))
        return f"cd; {'; '.join(commands)}"


def _host(file: ClusterFile, host: str) -> Check:
    ssh = Ssh.of(file, host)
    done = ssh.run("python -c 'import sys; print(*sys.version_info[:2], sep=\".\")'", timeout=10)
    name = f"host {host}"
    if done.code == 255:
        said = done.error.strip().splitlines() or ["no answer"]
        return Check(name, problem=f"ssh: {said[-1]}", mend=f"`{ssh.spelled}` must work")
    if done.code:
        return Check(
            name,
            problem="it has no command named `python`",
            mend=f"put Python {file.settings.python} on the PATH of commands run over ssh",
        )
    found = done.output.strip()
    if found != file.settings.python:
        return Check(
            name,
            problem=f"Python {found}, where this machine and the file have {file.settings.python}",
            mend="put the same minor version first on the PATH there",
        )
    return Check(name, f"answers, Python {found}")
