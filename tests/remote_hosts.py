"""``python -m study.run --cluster`` on the hosts of :mod:`hosts`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hosts import ROOT, Hosts

# A study of a minute, one trial after the other: time to leave it, and the same records each time.
NOWHERE = """
cluster_name: tiny
provider: {type: aws, region: eu-north-1}
auth: {ssh_user: ubuntu}
available_node_types:
  head: {node_config: {}, resources: {CPU: 0}}
head_node_type: head
metadata: {study: {storage: "file:///tmp/none"}}
"""
SMALL = """
plugins: [steady.py]
task: steady
epochs: 4
trials: 8
concurrency: 1
seed: 3
space: {method: [rtn, int1, ternary], init: [zeros], adapter: [lora], rank: [1, 2, 4]}
"""
STEADY = '''
"""Digits, at a pace at which a trial can be met half-way."""
import time

from trainables.tasks import TASKS
from trainables.tasks.digits import Digits


@TASKS.register("steady")
class Steady(Digits):
    """See the module."""

    def loss(self, outputs, labels):
        time.sleep(0.03)
        return super().loss(outputs, labels)
'''
START = "--num-cpus={} --object-store-memory=100000000"


def cluster_file(hosts: Hosts, folder: Path, **study: Any) -> Path:
    """A user's file for these hosts: no trials on the head, one at a time on each worker."""
    head = "ray start --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml "
    file = {
        "cluster_name": folder.name.replace("_", "-"),
        "provider": {
            "type": "local",
            "head_ip": hosts.head.address,
            "worker_ips": [worker.address for worker in hosts.workers],
        },
        "auth": {"ssh_user": hosts.user, "ssh_private_key": str(hosts.key)},
        "head_start_ray_commands": ["ray stop", head + START.format(0)],
        "worker_start_ray_commands": [
            "ray stop",
            f"ray start --address=$RAY_HEAD_IP:6379 {START.format(1)}",
        ],
        "metadata": {"study": {"storage": str(hosts.shared / "studies"), **study}},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(file, sort_keys=False))
    return path


@dataclass
class Said:
    """How a command ended."""

    code: int
    text: str
    seconds: float
    began: float = 0.0  # by the clock on the wall


@dataclass
class User:
    """Somebody with a cluster file, in a folder of their own."""

    folder: Path
    cluster: Path
    config: Path = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.folder / "small.yaml"
        self.config.write_text(SMALL)
        (self.folder / "steady.py").write_text(STEADY)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The command, running."""
        call = [sys.executable, "-m", "study.run", "--cluster", str(self.cluster), *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        own = {"PARETUNE_CACHE": "cache", "PARETUNE_STATE": "state"}
        return subprocess.Popen(
            call,
            cwd=self.folder,
            env=environment | {name: str(self.folder / at) for name, at in own.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, seconds: float = 300) -> Said:
        """The command to its end."""
        began, at = time.monotonic(), time.time()
        process = self.start(*words)
        try:
            text = process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Said(process.returncode, text, time.monotonic() - began, at)

    def study(self, name: str, *words: str, seconds: float = 300) -> Said:
        """A small study to its end."""
        return self.run("--config", "small.yaml", "--name", name, *words, seconds=seconds)


def until(process: subprocess.Popen[str], word: str) -> str:
    """What a command says up to a word; the rest is still to be read."""
    said = ""
    for line in process.stdout or ():
        said += line
        if word in line:
            return said
    raise AssertionError(f"ended without {word!r}:\n{said}")


def ctrl_c(process: subprocess.Popen[str]) -> Said:
    """As the terminal does it; how the command ends."""
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    return Said(process.returncode, text, 0.0)
