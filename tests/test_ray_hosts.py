"""Ray's own launcher on real hosts: what our clusters are built on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import hosts as real
import open_ports
import pytest
import ray_hosts
from host_network import wait
from hosts import Hosts

from clusters.derived import ENVIRONMENT

# Of the link to a worker, in seconds: PARETUNE_CUTS="30 180" for the long one as well.
CUTS = [int(seconds) for seconds in os.environ.get("PARETUNE_CUTS", "30").split()]
pytestmark = real.marks(timeout=300)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with real.started(workers=2) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def launcher(hosts) -> ray_hosts.Launcher:
    token = ray_hosts.new_token(hosts.folder / "token")
    file = ray_hosts.launcher_file(hosts, token, ENVIRONMENT)
    launcher = ray_hosts.Launcher(hosts.folder / "launcher", file)
    launcher.up()
    return launcher


@pytest.fixture(scope="module")
def nodes(hosts, launcher):
    return ray_hosts.joined(hosts)


def test_the_head_and_all_workers_are_one_cluster(hosts, nodes):
    assert set(nodes) == {host.address for host in hosts.all}
    assert [node["Resources"]["CPU"] for node in nodes.values()] == [1.0] * 3


def test_the_token_is_on_every_host_for_its_owner_only(hosts, nodes):
    for host in hosts.all:
        mode = host.ssh(f"stat -c '%a %U' {ray_hosts.TOKEN}; cat {ray_hosts.TOKEN}").split()
        assert mode == ["600", hosts.user, (hosts.folder / "token").read_text()]


# One task to a node: each asks for the only processor of its own.
_TASKS = """
import ray, socket
ray.init("auto", log_to_driver=False)
@ray.remote(num_cpus=1)
def name():
    return socket.gethostname()
addresses = [node["NodeManagerAddress"] for node in ray.nodes()]
tasks = [name.options(resources={f"node:{a}": 0.01}).remote() for a in addresses]
print("names:", *sorted(ray.get(tasks)))
"""

_SUBMIT = """
import sys, time
from ray.job_submission import JobStatus, JobSubmissionClient
client = JobSubmissionClient(sys.argv[1])
job = client.submit_job(entrypoint=f"python {sys.argv[2]}")
while not (status := client.get_job_status(job)).is_terminal():
    time.sleep(0.5)
print(status.value, client.get_job_logs(job), sep="\\n")
"""


def test_a_job_through_a_tunnel_runs_on_all_hosts(hosts, nodes):
    script = hosts.shared / "tasks.py"
    script.write_text(_TASKS)
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(hosts.folder / "token")}
    with ray_hosts.tunnel(hosts, 8265) as port:
        done = subprocess.run(
            [sys.executable, "-c", _SUBMIT, f"http://127.0.0.1:{port}", str(script)],
            env={**os.environ, **secret},
            capture_output=True,
            text=True,
        )
    assert done.stdout.startswith("SUCCEEDED"), done.stdout + done.stderr
    assert "names: head worker1 worker2" in done.stdout


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_a_request_without_the_token_is_refused(hosts, nodes, token):
    with ray_hosts.tunnel(hosts, 8265) as port:
        body = json.dumps({"entrypoint": "true"}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/jobs/", body)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request)
    assert refusal.value.code == (401 if token is None else 403)


def test_a_driver_without_the_token_is_refused(hosts, nodes):
    join = "import ray; ray.init('auto')"
    command = f'HOME=/tmp RAY_AUTH_MODE=token python -c "{join}" 2>&1 || true'
    assert "AuthenticationError" in hosts.workers[0].run(command)


LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_no_port_beyond_loopback_answers_who_has_no_token(hosts, nodes):
    for host in hosts.all:
        ports = {port: name for where, port, name in host.listening() if where not in LOOPBACK}
        assert ports.pop(22) == "sshd"
        assert any("raylet" in name for name in ports.values()), "there is nothing to conclude"
        for port, name in ports.items():
            http, grpc = (ask(host.address, port) for ask in open_ports.WAYS)
            said = (host.name, port, name, http, grpc)
            assert http or "UNAUTHENTICATED" in grpc, said
            assert http <= {401, 403, 404, 405}, said
            assert grpc <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}, said


_COUNT = """
import os, pathlib, sys, time, ray
ray.init("auto", log_to_driver=False)
@ray.remote(num_cpus=0, resources={f"node:{sys.argv[1]}": 0.01})
class Counter:
    def __init__(self):
        self.count = 0
    def next(self):
        self.count += 1
        return self.count, os.getpid()
counter = Counter.remote()
while not pathlib.Path(sys.argv[2]).exists():
    print(*ray.get(counter.next.remote()), flush=True)
    time.sleep(0.5)
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", CUTS)
def test_a_call_under_way_outlives_a_cut(hosts, nodes, seconds):
    worker, stop = hosts.workers[1], hosts.shared / f"stop-{seconds}"
    script, counted = hosts.shared / "count.py", hosts.shared / f"counted-{seconds}"
    script.write_text(_COUNT)
    words = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    command = f"{words} python {script} {worker.address} {stop} > {counted}"
    driver = subprocess.Popen([*hosts.ssh_command(hosts.head), command])

    def lines() -> list[str]:
        return counted.read_text().splitlines() if counted.exists() else []

    wait("the first calls", lambda: len(lines()) > 3, 60)
    hosts.cut(worker)
    try:
        time.sleep(5)
        before = len(lines())
        time.sleep(seconds - 5)
        assert len(lines()) == before, "it was not cut"
    finally:
        hosts.join(worker)
    began = time.monotonic()
    wait("calls go on", lambda: len(lines()) > before + 3, 90)
    print(f"{seconds} s cut: calls go on {time.monotonic() - began:.0f} s after its end")
    stop.touch()
    assert driver.wait(30) == 0
    counts, processes = zip(*(map(int, line.split()) for line in lines()), strict=True)
    assert counts == tuple(range(1, len(counts) + 1)), "a call was lost, or made twice"
    assert len(set(processes)) == 1
    ids = {address: node["NodeID"] for address, node in ray_hosts.nodes(hosts.head).items()}
    assert ids == {address: node["NodeID"] for address, node in nodes.items()}


def test_the_client_keeps_the_cluster_s_state_in_its_own_folder(launcher):
    name = launcher.file["cluster_name"]
    assert (launcher.folder / "ray" / f"cluster-{name}.state").exists()
    assert not os.path.exists(f"/tmp/ray/cluster-{name}.state")


def test_down_ends_ray_on_the_head_and_a_stop_on_the_workers(hosts, launcher, nodes):
    launcher.down()
    wait("no Ray on the head", lambda: not ray_hosts.ray_processes(hosts.head), 30)
    assert all(ray_hosts.ray_processes(worker) for worker in hosts.workers)
    ray_hosts.stop_workers(hosts)
    for worker in hosts.workers:
        wait("no Ray", lambda worker=worker: not ray_hosts.ray_processes(worker), 30)
