"""Ray's own launcher on the hosts of :mod:`hosts`, with token authentication."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from host_network import Failed, do, wait
from hosts import Host, Hosts
from mlflow_server import free_port

TOKEN = "~/.ray/auth_token"


def launcher_file(
    hosts: Hosts, token: Path, environment: Mapping[str, str] | None = None, options: str = ""
) -> dict[str, Any]:
    """A launcher file for these hosts; ``token`` is a file of mode 0600, and stays of that mode.

    ``environment`` and the ``options`` of ``ray start`` are those of every host.
    """
    variables = {
        "RAY_AUTH_MODE": "token",
        # The second autoscaler, the default, looks for the head in the provider's state, where
        # only the first one enters it: it takes the head for one of the workers, misses it, and
        # the last worker is never started.
        "RAY_enable_autoscaler_v2": "0",
        **(environment or {}),
    }
    words = " ".join(f"{name}={value}" for name, value in variables.items())
    start = f"{words} ray start --num-cpus=1 --object-store-memory=100000000 {options}"
    return {
        # The state of a cluster goes by its name, and so do ssh's shared connections, which live
        # on for 10 s: tests one after the other must not inherit them.
        "cluster_name": f"hosts-{secrets.token_hex(4)}",
        "provider": {
            "type": "local",
            "head_ip": hosts.head.address,
            "worker_ips": [worker.address for worker in hosts.workers],
        },
        "auth": {"ssh_user": hosts.user, "ssh_private_key": str(hosts.key)},
        # From here to the head, and by the head to the workers.
        "file_mounts": {TOKEN: str(token)},
        "head_start_ray_commands": [
            "ray stop",
            f"{start} --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": ["ray stop", f"{start} --address=$RAY_HEAD_IP:6379"],
    }


def new_token(path: Path) -> Path:
    """A file that only its owner reads, with a token for a cluster."""
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(secrets.token_hex(32))
    return path


class Launcher:
    """``ray up`` and ``ray down`` of one file; what they keep on the client stays in ``folder``."""

    def __init__(self, folder: Path, file: Mapping[str, Any]) -> None:
        folder.mkdir()
        self.folder, self.file, self.path = folder, file, folder / "cluster.yaml"
        self.path.write_text(yaml.safe_dump(dict(file)))
        # Ray keeps a local cluster's state in RAY_TMPDIR/ray/cluster-NAME.{state,lock}; without
        # that variable, in /tmp/ray, where any user of this machine reads and writes it.
        mine = {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
        foreign = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_enable_autoscaler_v2")
        rest = {name: value for name, value in os.environ.items() if name not in foreign}
        self.environment = {**rest, **mine}

    def up(self, seconds: float = 120.0) -> str:
        """Starts the head, whose autoscaler then starts the workers."""
        return self._ray("up", "--no-config-cache", seconds=seconds)

    def down(self, seconds: float = 60.0) -> str:
        """Stops Ray on the head, and only there: the workers' goes on, see :func:`stop_workers`."""
        return self._ray("down", seconds=seconds)

    def _ray(self, verb: str, *options: str, seconds: float) -> str:
        command = [shutil.which("ray"), verb, "--yes", *options, str(self.path)]
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        if done.returncode:
            raise Failed(f"ray {verb}: status {done.returncode}\n{done.stdout}")
        return done.stdout


_NODES = """
import json, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
print("nodes:" + json.dumps(ray.nodes()))
"""


def nodes(head: Host) -> dict[str, dict[str, Any]]:
    """The living nodes by their addresses, as a driver on the head sees them."""
    said = head.run(f"RAY_AUTH_MODE=token python -c '{_NODES}'")
    line = next(line for line in said.splitlines() if line.startswith("nodes:"))
    living = [node for node in json.loads(line.removeprefix("nodes:")) if node["Alive"]]
    return {node["NodeManagerAddress"]: node for node in living}


def joined(hosts: Hosts, seconds: float = 90.0) -> dict[str, dict[str, Any]]:
    """The same, once all are there."""

    def all_there() -> dict[str, dict[str, Any]] | None:
        time.sleep(0.5)
        found = nodes(hosts.head)
        return found if len(found) == len(hosts.all) else None

    return wait("head and workers are one cluster", all_there, seconds)


def stop_workers(hosts: Hosts) -> None:
    """What ``ray down`` leaves to do with the local provider.

    After it, for before the autoscaler of the head would start them again.
    """
    for worker in hosts.workers:
        worker.ssh("ray stop")


def ray_processes(host: Host) -> dict[int, str]:
    """Ray's processes on a host, by their ids."""
    return {pid: line for pid, line in host.processes().items() if "ray" in line.lower()}


@contextlib.contextmanager
def tunnel(hosts: Hosts, port: int) -> Iterator[int]:
    """A port of this machine's loopback that leads to ``port`` of the head's loopback."""
    here = free_port()
    forward = ["-N", "-L", f"127.0.0.1:{here}:127.0.0.1:{port}", "-o", "ExitOnForwardFailure=yes"]
    process = subprocess.Popen(hosts.ssh_command(hosts.head, *forward))
    try:
        wait("the tunnel", lambda: do("ss", "-H", "-l", "-n", "-t", f"sport = :{here}"))
        yield here
    finally:
        process.kill()
        process.wait()
