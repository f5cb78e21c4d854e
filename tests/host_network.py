"""The network of :mod:`tests.hosts`: a switch, the cable from this machine to it, the hosts'."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# RFC 2544 keeps these for tests of networks: nobody's own network is hidden.
SUBNETS = list(ipaddress.ip_network("198.18.0.0/16").subnets(new_prefix=24))

# Namespaces that die with this process, and all that is in them.
UNSHARE = ["setpriv", "--pdeathsig", "KILL", "unshare"]

T = TypeVar("T")


class Failed(Exception):
    """A command that ended with another status than 0, with what it said."""


def do(*command: str | Path | int, timeout: float = 60.0) -> str:
    """Output of a command; raises :class:`Failed`."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )
    if done.returncode:
        said = f"{done.stdout}{done.stderr}".strip()
        raise Failed(f"status {done.returncode}: {shlex.join(map(str, command))}\n{said}")
    return done.stdout


def wait(what: str, happened: Callable[[], T], seconds: float = 20.0) -> T:
    """What it answers once that is true of it; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)
    return found


class Network:
    """A switch in a network namespace of its own, and the cable from this machine to it."""

    def __init__(self) -> None:
        self.switch = subprocess.Popen([*UNSHARE, "--net", "sleep", "infinity"])
        wait("a network of its own", self._apart)
        self.cable, self.subnet = self._plugged()
        self.within("ip", "link", "add", "switch", "type", "bridge")
        self.within("ip", "link", "set", "switch", "up")
        self.within("ip", "link", "set", "client", "master", "switch", "up")
        do("ip", "address", "add", f"{self.client}/{self.subnet.prefixlen}", "dev", self.cable)
        do("ip", "link", "set", self.cable, "up")

    @property
    def client(self) -> str:
        """The address of this machine."""
        return str(self.subnet[1])

    def address(self, number: int) -> str:
        return str(self.subnet[10 + number])

    def within(self, *command: str) -> str:
        return do("nsenter", "--target", self.switch.pid, "--net", *command)

    def connect(self, name: str, number: int, pid: int) -> None:
        """Plugs the process's network in."""
        with contextlib.suppress(Failed):  # of a host that was killed: it may outlive it
            self.within("ip", "link", "delete", name)
        # A host that starts again has the hardware address that its neighbours remember.
        end = ["eth0", "address", f"02:00:00:00:00:{number:02x}", "netns", str(pid)]
        self.within("ip", "link", "add", name, "type", "veth", "peer", *end)
        self.within("ip", "link", "set", name, "master", "switch", "up")
        inside = ["nsenter", "--target", str(pid), "--net", "ip"]
        address = f"{self.address(number)}/{self.subnet.prefixlen}"
        do(*inside, "link", "set", "lo", "up")
        do(*inside, "address", "add", address, "dev", "eth0")
        do(*inside, "link", "set", "eth0", "up")
        # It leads nowhere, but by asking which way the internet lies Ray finds its own address.
        do(*inside, "route", "add", "default", "via", self.client)

    def close(self) -> None:
        self.switch.kill()
        self.switch.wait()
        with contextlib.suppress(Failed):  # the kernel may have been faster
            do("ip", "link", "delete", self.cable)

    def _apart(self) -> bool:
        pid = self.switch.pid
        ours = os.readlink("/proc/self/ns/net")
        return os.readlink(f"/proc/{pid}/ns/net") != ours and b"sleep" in _command(pid)

    def _plugged(self) -> tuple[str, ipaddress.IPv4Network]:
        """The cable's name is the lock on its subnet: two runs cannot have the same."""
        routes = json.loads(do("ip", "-json", "-4", "route", "show", "table", "all"))
        used = [ipaddress.ip_network(r["dst"]) for r in routes if r["dst"] != "default"]
        for number, subnet in enumerate(SUBNETS):
            name = f"pthosts{number}"
            if any(subnet.overlaps(other) for other in used):
                continue
            cable = ["type", "veth", "peer", "client", "netns", self.switch.pid]
            with contextlib.suppress(Failed):
                do("ip", "link", "add", name, *cable)
                return name, subnet
        raise OSError("no subnet of 198.18.0.0/16 is free")


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
