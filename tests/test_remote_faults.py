"""What goes wrong on the way to a cluster and on it: said, mended where it can be, ended."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator

import hosts as real
import pytest
import yaml
from hosts import Host, Hosts
from ray_hosts import ray_processes
from remote_hosts import User, cluster_file, until

from study import log
from study.events import Ended, Reported, Started
from study.store.storage import Storage

pytestmark = real.marks(timeout=900)
# Of links, in seconds: PARETUNE_STUDY_CUT=180 for the long one.
CUT = float(os.environ.get("PARETUNE_STUDY_CUT", "30"))


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with real.started(workers=2) as hosts:
        yield hosts


@pytest.fixture
def user(hosts, tmp_path) -> User:
    return User(tmp_path, cluster_file(hosts, tmp_path))


@pytest.fixture(scope="module")
def lasting(hosts, tmp_path_factory) -> User:
    """Of the studies that run, on one cluster after the other tests' launches."""
    folder = tmp_path_factory.mktemp("lasting")
    return User(folder, cluster_file(hosts, folder))


def change(user: User, **keys) -> None:
    """Other keys in the user's cluster file."""
    data = yaml.safe_load(user.cluster.read_text())
    user.cluster.write_text(yaml.safe_dump({**data, **keys}, sort_keys=False))


PYTHON = f"{sys.prefix}/bin/python"
OTHER = """#!/bin/sh
exec {real} -c 'import sys; sys.version_info = (3, 9, 1); exec(sys.argv[2])' "$@"
"""


def another_python(host: Host) -> None:
    """From now on that host's ``python`` says that it is 3.9."""
    text = OTHER.format(real=f"{sys.prefix}/bin/python3")
    host.run(f"rm {PYTHON} && echo {shlex.quote(text)} > {PYTHON} && chmod +x {PYTHON}")


def this_python(host: Host) -> None:
    """The host's ``python`` is this environment's again."""
    host.run(f"ln -sf python3 {PYTHON}")


def nothing_runs(hosts: Hosts) -> bool:
    return not any(ray_processes(host) for host in hosts.all)


def test_what_can_be_known_is_said_before_anything_starts(hosts, user):
    elsewhere = hosts.network.address(99)
    change(
        user,
        provider={"type": "local", "head_ip": hosts.head.address, "worker_ips": [elsewhere]},
    )
    said = user.study("one")
    assert said.code == 2
    assert f"host {elsewhere}: ssh: " in said.text
    assert said.seconds < 60
    assert nothing_runs(hosts)
    change(user, auth={"ssh_user": hosts.user, "ssh_private_key": str(user.folder / "none.pem")})
    said = user.study("one")
    assert (said.code, "there is no " in said.text) == (2, True), said.text
    change(user, setup_command=["x"])
    said = user.study("one")
    assert said.code == 2
    assert "unknown key 'setup_command'; did you mean 'setup_commands'?" in said.text


def test_packages_that_cannot_be_installed_end_the_launch_and_leave_nothing(hosts, user):
    change(user, setup_commands=["python -m pip install --quiet --no-index no-such-package-here"])
    said = user.study("one")
    assert said.code in (1, 2), said.text
    assert "no-such-package-here" in said.text
    assert "ending what was started" in said.text
    assert nothing_runs(hosts)


def test_another_python_on_a_node_is_named(hosts, user):
    host = hosts.workers[0]
    another_python(host)
    said = user.study("one")
    this_python(host)
    assert said.code == 2
    assert f"host {host.address}: Python 3.9, where this machine and the file have" in said.text
    assert nothing_runs(hosts)


def test_a_worker_that_turns_out_wrong_after_the_launch_ends_it(hosts, user):
    running = user.start("--config", "small.yaml", "--name", "one")
    until(running, "[7/7]")  # the head; its autoscaler sets the workers up after that
    another_python(hosts.workers[1])
    text = running.communicate(timeout=400)[0]
    assert running.returncode == 2, text
    assert "this node has Python 3.9, the study needs" in text
    assert "ending what was started" in text
    this_python(hosts.workers[1])
    assert nothing_runs(hosts)


def test_a_worker_killed_and_a_link_cut_cost_no_trial(hosts, lasting):
    running = lasting.start("--config", "small.yaml", "--name", "rough", "--set", "concurrency=2")
    until(running, "/8 trials")
    began = time.monotonic()
    pids = hosts.workers[0].processes()
    raylet = next(pid for pid, line in pids.items() if "raylet/raylet" in line)
    hosts.workers[0].run(f"kill -9 {raylet}")

    def cut() -> None:
        time.sleep(5)
        hosts.cut(hosts.workers[1])
        time.sleep(CUT)
        hosts.join(hosts.workers[1])

    cutting = threading.Thread(target=cut)
    cutting.start()
    text = running.communicate(timeout=600)[0]
    cutting.join()
    assert running.returncode == 0, text
    print(text, f"{time.monotonic() - began:.1f} s after the kill")
    events = log.read(Storage.open(str(lasting.folder / "results" / "rough")))
    ended = [e for e in events if isinstance(e, Ended) and e.number >= 0]
    assert len({e.number for e in ended}) == len(ended) >= 8
    assert {e.record.outcome.status.value for e in ended} <= {"completed", "stopped"}
    assert sum(isinstance(e, Started) for e in events) > len(ended), "the lost ones began again"
    assert any(isinstance(e, Reported) for e in events)


def test_a_cut_between_user_and_head_is_waited_for(hosts, lasting):
    running = lasting.start("--config", "small.yaml", "--name", "cut")
    until(running, "/8 trials")
    hosts.cut(hosts.head)
    time.sleep(CUT)
    hosts.join(hosts.head)
    text = running.communicate(timeout=600)[0]
    print(text)
    assert running.returncode == 0, text
    assert (lasting.folder / "results" / "cut" / "study.json").exists()


def test_a_cluster_that_nobody_uses_ends_by_itself(hosts, lasting):
    lasting.cluster = cluster_file(hosts, lasting.folder, idle_minutes=0.5)
    said = lasting.study("short", "--trials", "1")
    assert said.code == 0, said.text
    deadline = time.monotonic() + 240
    while not nothing_runs(hosts) and time.monotonic() < deadline:
        time.sleep(2)
    left = {host.name: ray_processes(host) for host in hosts.all}
    assert nothing_runs(hosts), left


def test_our_own_packages_that_cannot_be_installed_are_wrong_input(hosts, user):
    """Last of all: the head lacks one afterwards, and there is no index to have it from."""
    hosts.head.run(f"rm -r {sysconfig.get_path('purelib')}/moocore*")
    began = time.monotonic()
    said = user.study("one")
    print(f"{time.monotonic() - began:.1f} s")
    assert said.code == 2, said.text
    assert "could not install the packages of the study" in said.text
    assert nothing_runs(hosts)
