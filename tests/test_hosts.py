"""The hosts that clusters are tried on: apart from one another, and gone without a trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hosts as real
import pytest
from host_network import Failed, do, wait

pytestmark = real.marks(timeout=120)


@pytest.fixture(scope="module")
def hosts() -> Iterator[real.Hosts]:
    with real.started(workers=2, environment={"GREETING": "good day"}) as hosts:
        yield hosts


def test_each_has_processes_files_and_a_name_of_its_own(hosts):
    for host in hosts.all:
        assert host.ssh("hostname; cat /proc/sys/kernel/hostname").split() == [host.name] * 2
        wait("the session's end", lambda host=host: list(host.processes()) == [1])
        for folder in ("~", "/tmp", "/dev/shm"):
            assert host.ssh(f"ls {folder}/mark 2>&1 || true").startswith("ls: cannot access")
            host.ssh(f"touch {folder}/mark")
    assert not Path("/tmp/mark").exists()
    assert not Path(real.USER.pw_dir, "mark").exists()


def test_a_login_has_this_environment(hosts):
    answers = "import sys; print(sys.prefix)"
    for shell in ("bash -c", "bash --login -c", "bash --login -i -c"):
        command = f"{shell} 'python -c \"{answers}\"; echo $GREETING; echo ~; pwd'"
        lines = hosts.head.ssh(f"{command} 2>/dev/null").splitlines()
        assert lines == [sys.prefix, "good day", real.USER.pw_dir, real.USER.pw_dir]
        assert hosts.head.run(f"{command} 2>/dev/null").splitlines() == lines


def test_what_one_installs_stays_on_it(hosts):
    module = "paretune_installed_on_one_host"
    site = hosts.head.ssh("python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))'")
    path = Path(site.strip(), f"{module}.py")
    hosts.head.ssh(f"touch {path} && python -c 'import {module}'")
    assert not path.exists()
    for worker in hosts.workers:
        assert "No module named" in worker.ssh(f"python -c 'import {module}' 2>&1 || true")


def test_they_share_one_folder(hosts):
    (hosts.shared / "word").write_text("told")
    assert [host.ssh(f"cat {hosts.shared}/word") for host in hosts.all] == ["told"] * 3


def test_only_sshd_listens_and_only_on_the_host_s_address(hosts):
    for host in hosts.all:
        assert host.listening() == {(host.address, 22, "sshd")}


def test_a_key_that_is_not_the_user_s_is_refused(hosts):
    other = real.make_key(hosts.folder / "other_key")
    command = hosts.ssh_command(hosts.head)
    with pytest.raises(Failed, match="Permission denied"):
        do(*[str(other) if word == str(hosts.key) else word for word in command], "true")


def test_a_cut_loses_packets_and_a_join_ends_it(hosts):
    worker, other = hosts.workers
    knock = f"timeout 5 bash -c 'echo > /dev/tcp/{worker.address}/22' && echo open || echo lost"
    assert other.run(knock) == "open\n"
    hosts.cut(worker)
    try:
        assert other.run(knock) == "lost\n"
        assert not worker.answers()
        assert worker.run("hostname") == "worker1\n"  # it lives on
    finally:
        hosts.join(worker)
    wait("the worker is back", lambda: other.run(knock) == "open\n" and worker.answers())


def test_a_killed_host_takes_all_its_processes_and_starts_again_empty(hosts):
    worker = hosts.workers[0]
    worker.ssh("touch ~/mark; nohup sleep 1000 > /dev/null 2>&1 &")
    space = real.processes()[worker.init]
    assert list(real.processes().values()).count(space) >= 2
    # The kernel takes a network down when it comes to it; one that is open stays until closed.
    with Path(f"/proc/{worker.init}/ns/net").open():
        worker.kill()
        assert space not in real.processes().values()
        with pytest.raises(Failed, match="is down"):
            worker.answers()
        hosts.boot(worker)
        assert worker.ssh("ls ~") == ""


def traces(hosts: real.Hosts) -> dict[str, bool]:
    """What there is of some hosts, by its name."""
    spaces = set(real.processes().values())
    return {
        "cable": hosts.network.cable in do("ip", "link"),
        "address": hosts.network.client in do("ip", "address"),
        "switch": hosts.network.switch.pid in real.processes(),
        "hosts": any(host.space in spaces for host in hosts.all),
        "mounts": str(hosts.folder) in Path("/proc/self/mounts").read_text(),
        "folder": hosts.folder.exists(),
    }


def fails_on(hosts: real.Hosts) -> None:
    with real.started(workers=1) as more:
        assert more.network.subnet != hosts.network.subnet
        more.head.ssh("nohup setsid sleep 1000 > /dev/null 2>&1 &")
        assert {name for name, there in traces(more).items() if not there} == {"mounts"}
        assert all(host.answers() for host in hosts.all)
        raise ZeroDivisionError(more)


def test_nothing_is_left_after_a_failure_and_two_runs_do_not_meet(hosts):
    with pytest.raises(ZeroDivisionError) as failure:
        fails_on(hosts)
    (more,) = failure.value.args
    assert not any(traces(more).values()), traces(more)
    assert all(host.answers() for host in hosts.all)


def test_nothing_but_a_folder_is_left_of_a_run_that_is_killed(tmp_path):
    body = (
        "import hosts, time\n"
        "with hosts.started(workers=1) as ours:\n"
        "    print(ours.network.cable, *(host.space for host in ours.all), flush=True)\n"
        "    time.sleep(1000)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", body],
        cwd=Path(__file__).parent,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    cable, *spaces = run.stdout.readline().split()
    assert cable in do("ip", "link")
    assert set(spaces) <= set(real.processes().values())
    run.kill()
    run.wait()
    wait("the kernel takes the cable", lambda: cable not in do("ip", "link"))
    wait("processes end", lambda: set(spaces).isdisjoint(real.processes().values()))
