"""Real hosts on one machine: a head and its workers, each in Linux namespaces of its own.

A host has a network, processes, mounts, IPC and a name of its own; HOME, ``/tmp``, ``/run`` and
``/dev/shm`` are its own and start empty; an sshd listens on its address. It has the Python
environment that runs the tests, and what it installs there stays on it. Everything else is this
machine's. Processors, memory and the clock are shared, and there is no route to the internet.

This machine is the client: it reaches the hosts over one virtual cable, at the first address of
their subnet, and they reach it there. Nothing is stored in the kernel by name but that cable, so
all is gone with the process that started it, however that ended.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from host_network import UNSHARE, Failed, Network, do, wait

ROOT = Path(__file__).parents[1]
USER = pwd.getpwuid(os.getuid())
TOOLS = {
    "ip": "iproute2",
    "ss": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "rsync": "rsync",  # the launcher copies with it
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
# PID 1 of a host is the child of `unshare`.
_HOST = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]

# Arguments: the host's folder, its name, its HOME, the paths that stay visible; of these it has the
# first two, environment and code, as layers that are its own to write.
_BOOT = r"""
own=$1 name=$2 home=$3; shift 3
cover() {  # DIRECTORY MODE SIZE: an empty one in its place, but for the paths that stay visible
  mkdir -p "$own$1"
  mount -t tmpfs -o "mode=$2,size=$3" tmpfs "$own$1"
  for path in "${visible[@]}"; do
    case "$path" in "$1"/*) mkdir -p "$own$path"; mount --bind "$path" "$own$path" ;; esac
  done
  mount --rbind "$own$1" "$1"
}
layer() {  # DIRECTORY: what is written there stays on this host; else nothing can be written
  mkdir -p "$own/layers$1/above" "$own/layers$1/work"
  above="lowerdir=$1,upperdir=$own/layers$1/above,workdir=$own/layers$1/work"
  mount -t overlay -o "$above" overlay "$1" && return
  mount --bind "$1" "$1"
  mount -o remount,bind,ro "$1"
}
visible=("$@")
mkdir -p "$own/layers"
mount -t tmpfs -o size=2g tmpfs "$own/layers"
cover "$home" 700 2g
cover /tmp 1777 4g
layer "$1"
layer "$2"
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777,size=512m tmpfs /dev/shm
mkdir -p /run/sshd
# A root account that is locked, as on most cloud images, cannot log in with a key either.
sed -E 's/^root:[^:]*:/root:*:/' /etc/shadow > "$own/shadow"
mount --bind "$own/shadow" /etc/shadow
# Hosts know one another's names. Other names fail at once: with this machine's name server, which
# is out of reach, each start of Ray waits half a minute for it.
mount --bind "$own/../hosts" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
hostname "$name"
cp "$own/bashrc" "$home/.bashrc"
echo '. ~/.bashrc' > "$home/.bash_profile"
read -r _  # until the cable is plugged in
exec "$(command -v sshd)" -D -e -f "$own/sshd_config"
"""

_SSHD = """\
ListenAddress {address}
HostKey {own}/host_key
AuthorizedKeysFile {key}.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
SetEnv {environment}
"""


def available() -> str | None:
    """Why there can be no hosts on this machine; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need root on Linux"
    missing = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    if missing:
        return f"not installed: {', '.join(sorted(missing))} (apt-get install)"
    tried = subprocess.run(
        # What a host needs: a cable out of a network of its own, and mounts of its own.
        [
            *UNSHARE,
            *_HOST,
            "sh",
            "-ec",
            "ip link add near type veth peer far; mount -t tmpfs none /run",
        ],
        capture_output=True,
        text=True,
    )
    return None if tried.returncode == 0 else f"the kernel refuses: {tried.stderr.strip()}"


def marks(timeout: float) -> list[pytest.MarkDecorator]:
    """What a module of tests on hosts says of itself; ``timeout`` in seconds for each test."""
    why_not = available()
    return [
        pytest.mark.cluster,
        pytest.mark.timeout(timeout),
        pytest.mark.skipif(why_not is not None, reason=f"no hosts on this machine: {why_not}"),
    ]


def processes() -> dict[int, str]:
    """Ids of all processes of this machine and its hosts, with the PID namespace of each."""
    found = {}
    for link in Path("/proc").glob("[0-9]*/ns/pid"):
        with contextlib.suppress(OSError):  # ended meanwhile
            found[int(link.parts[2])] = os.readlink(link)
    return found


def make_key(path: Path) -> Path:
    """A private key without a passphrase; the public one lies beside it."""
    do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path)
    return path


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Of a login on a host: the ``python`` and ``ray`` found are those that run the tests."""
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": f"{Path(sys.executable).parent}:{system}", "OMP_NUM_THREADS": "1", **more}


class Host:
    """One host; made by :func:`started`."""

    def __init__(self, hosts: Hosts, name: str, number: int) -> None:
        self.hosts, self.name, self.number = hosts, name, number
        self.address = hosts.network.address(number)
        self.own = hosts.folder / name
        self.own.mkdir()
        host_key = make_key(self.own / "host_key")
        with hosts.known_hosts.open("a") as file:
            file.write(f"{self.address} {host_key.with_suffix('.pub').read_text()}")
        words = [f"{key}={shlex.quote(value)}" for key, value in hosts.environment.items()]
        # For login shells, whose PATH is the system's, and for those that sshd starts.
        (self.own / "bashrc").write_text("".join(f"export {word}\n" for word in words))
        config = _SSHD.format(
            address=self.address, own=self.own, key=hosts.key, environment=" ".join(words)
        )
        (self.own / "sshd_config").write_text(config)

    def boot(self) -> None:
        """Starts it and plugs it in; it answers a moment later."""
        visible = [sys.prefix, str(ROOT), sys.base_prefix, str(self.hosts.folder)]
        arguments = [str(self.own), self.name, USER.pw_dir, *visible]
        with (self.own / "console.log").open("ab") as console:
            self._unshare = subprocess.Popen(
                [*UNSHARE, *_HOST, "bash", "-eu", "-c", _BOOT, "boot", *arguments],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
            )
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self.init = int(wait(f"{self.name} has a first process", children.read_text))
        self.space = os.readlink(f"/proc/{self.init}/ns/pid")
        self.hosts.network.connect(self.name, self.number, self.init)
        self._unshare.stdin.write(b"\n")
        self._unshare.stdin.close()

    def answers(self) -> bool:
        """Whether sshd does."""
        if self._unshare.poll() is not None:
            raise Failed(f"{self.name} is down:\n{(self.own / 'console.log').read_text()}")
        try:
            socket.create_connection((self.address, 22), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to its first process, and so to all; the kernel still closes their connections.

        For a pulled plug, of which nobody is told, :meth:`Hosts.cut` it first.
        """
        if self._unshare.poll() is None:  # else the id may be another's by now
            os.kill(self.init, signal.SIGKILL)
            self._unshare.wait()

    def run(self, command: str, timeout: float = 60.0) -> str:
        """Output of a bash command inside, whatever the network is like; raises :class:`Failed`."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", f"--wd={USER.pw_dir}"]
        login = [f"{k}={v}" for k, v in {"HOME": USER.pw_dir, **self.hosts.environment}.items()]
        inside = ["nsenter", "--target", self.init, *spaces, "env", "-i", *login]
        return do(*inside, "bash", "-c", command, timeout=timeout)

    def ssh(self, command: str, timeout: float = 60.0) -> str:
        """The same as a user of this machine has it: over the network."""
        return do(*self.hosts.ssh_command(self), command, timeout=timeout)

    def listening(self) -> set[tuple[str, int, str]]:
        """Address, port and program of all that listens (TCP) or is bound (UDP) there."""
        found = set()
        for line in self.run("ss -H -l -n -t -u -p").splitlines():
            local = line.split()[4]
            address, _, port = local.rpartition(":")
            program = line.partition('users:(("')[2].partition('"')[0]
            found.add((address.strip("[]"), int(port), program))
        return found

    def processes(self) -> dict[int, str]:
        """Commands by their ids on the host, without those of the question."""
        lines = self.run("ps -e -o pid=,ppid=,args=").splitlines()
        rows = [line.split(maxsplit=2) for line in lines]
        return {int(pid): command for pid, parent, command in rows if parent != "0" or pid == "1"}


class Hosts:
    """A head and its workers."""

    def __init__(self, folder: Path, workers: int, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, _environment(environment)
        self.user, self.key = USER.pw_name, make_key(folder / "user_key")
        self.known_hosts = folder / "known_hosts"
        self.shared = folder / "shared"  # the same on all hosts and here, as NFS would be
        self.shared.mkdir()
        self.network = Network()
        names = ["head", *(f"worker{number}" for number in range(1, workers + 1))]
        self.all = [Host(self, name, number) for number, name in enumerate(names)]
        self.head, *self.workers = self.all
        names = [("127.0.0.1", "localhost"), *((host.address, host.name) for host in self.all)]
        (folder / "hosts").write_text("".join(f"{address} {name}\n" for address, name in names))

    def boot(self, *hosts: Host) -> None:
        """Starts those, or starts them again after a kill, and waits until they answer."""
        for host in hosts:
            host.boot()
        for host in hosts:
            wait(f"{host.name} answers", host.answers)

    def cut(self, host: Host) -> None:
        """Packets to and from the host are lost from now on; connections are not told."""
        self.network.within("ip", "link", "set", host.name, "down")

    def join(self, host: Host) -> None:
        """Ends a cut."""
        self.network.within("ip", "link", "set", host.name, "up")

    def ssh_command(self, host: Host, *options: str) -> list[str]:
        """``ssh`` to a host with its key checked; ``-L`` and the like are ``options``."""
        trust = ["-F", "none", "-i", str(self.key), "-o", "IdentitiesOnly=yes"]
        trust += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
        trust += ["-o", f"UserKnownHostsFile={self.known_hosts}"]
        return ["ssh", *trust, *options, f"{self.user}@{host.address}"]


@contextlib.contextmanager
def started(workers: int = 2, environment: Mapping[str, str] | None = None) -> Iterator[Hosts]:
    """A head and so many workers that answer over ssh; ``environment`` is every login's."""
    with (
        tempfile.TemporaryDirectory(prefix="paretune-hosts-") as folder,
        contextlib.ExitStack() as close,
    ):
        hosts = Hosts(Path(folder), workers, environment or {})
        close.callback(hosts.network.close)
        for host in hosts.all:
            close.callback(host.kill)
        hosts.boot(*hosts.all)
        yield hosts
