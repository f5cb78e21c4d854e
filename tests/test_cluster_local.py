"""``clusters/local.yaml``: a machine as a cluster of one, entered by its own ssh server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hosts as real
import pytest
from hosts import Host, Hosts

pytestmark = real.marks(timeout=300)
FILE = Path("clusters/local.yaml")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with real.started(workers=0) as hosts:
        yield hosts


def entered_by_itself(hosts: Hosts) -> str:
    """The file as its user has it, on a machine whose ssh server answers on loopback."""
    head = hosts.head
    head.run(
        f"sed 's/^ListenAddress .*/ListenAddress 127.0.0.1/' {head.own}/sshd_config > /tmp/config; "
        "$(command -v sshd) -f /tmp/config > /dev/null 2>&1"
    )
    text = FILE.read_text().replace("YOUR-NAME", hosts.user)
    return text.replace("~/.ssh/paretune-local", str(hosts.key))


def test_up_and_down_on_this_machine_alone(hosts: Hosts) -> None:
    head: Host = hosts.head
    text = entered_by_itself(hosts)
    head.run(f"cat > ~/local.yaml << 'FILE'\n{text}\nFILE")
    head.run("ray get-auth-token --generate > /dev/null; chmod 600 ~/.ray/auth_token")
    head.run("ray up -y --no-config-cache ~/local.yaml", timeout=150)
    said = head.run("RAY_AUTH_MODE=token ray status --address 127.0.0.1:6379")
    assert re.search(r"0\.0/[1-9][0-9]*\.0 CPU", said), said
    assert {address for address, port, _ in head.listening() if port == 8265} == {"127.0.0.1"}
    head.run("ray down -y ~/local.yaml", timeout=100)
    assert not any("raylet" in line for line in head.processes().values())
