"""A Ray of ours can be reached from this machine alone, and by who has its token alone."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studies import SMALL, command

from clusters import privacy
from clusters.connection import connected

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
LISTENING = "0A"


def tree(root):
    """Process ids of a process and all that it started, whatever session they are in."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat_line = (folder / "stat").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat_line.rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def sockets(pid):
    """Inodes of a process's sockets."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def listening(pids):
    """Hexadecimal addresses, as Linux writes them, that TCP sockets of the processes listen on."""
    own = set().union(*(sockets(pid) for pid in pids))
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].split(":")[0] for row in rows if row[3] == LISTENING and row[9] in own}


LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "0000000000000000FFFF00000100007F",  # the same, mapped to IPv6
    "00000000000000000000000001000000",  # ::1
}


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_study_listens_on_loopback_alone(tmp_path):
    study = subprocess.Popen(
        command(tmp_path, "--trials", "2", "--name", "s", config=SMALL),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    seen, most = set(), 0
    while study.poll() is None:
        pids = tree(study.pid)
        most = max(most, len(pids))
        seen |= listening(pids)
        time.sleep(0.3)
    assert study.returncode == 0
    assert most > 4, "Ray's processes were not seen: there is nothing to conclude"
    assert seen, "no socket was seen: there is nothing to conclude"
    assert seen <= LOOPBACK
    assert not (tmp_path / ".ray").exists(), "Ray's own token file is readable for all users"


JOIN = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level='CRITICAL')
except Exception as error:
    print(type(error).__name__)
else:
    print('joined')
"""


def joined(address, home, **environment):
    """What becomes of another process that connects."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        # A client is on loopback too: else Ray takes this machine's other address for 127.0.0.1.
        env={
            **others,
            "HOME": str(home),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    return (done.stdout.split() or [f"died with {done.returncode}"])[-1]


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_client_needs_the_token(tmp_path):
    before = {k: v for k, v in os.environ.items() if k.startswith("RAY_AUTH")}
    tokens = []
    for _ in range(2):  # a second Ray of one process has a token of its own, and works
        with connected(None, 1, 0):
            import ray

            assert ray.get(ray.remote(lambda: 7).remote()) == 7
            address = ray.get_runtime_context().gcs_address
            file = Path(os.environ[privacy.TOKEN_FILE])
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
            tokens.append(file.read_text())
    assert len(set(tokens)) == 2
    assert not file.parent.exists()
    assert before == {k: v for k, v in os.environ.items() if k.startswith("RAY_AUTH")}
    with connected(None, 1, 0):
        address = ray.get_runtime_context().gcs_address
        right = os.environ[privacy.TOKEN_FILE]
        assert joined(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=right) == (
            "joined"
        )
        assert joined(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64) != "joined"
        assert joined(address, tmp_path, RAY_AUTH_MODE="disabled") != "joined"


def test_who_chose_a_mode_of_their_own_keeps_it(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with privacy.private():
        assert privacy.TOKEN_FILE not in os.environ
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
