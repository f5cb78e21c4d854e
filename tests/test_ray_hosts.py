"""Ray's own launcher on real hosts: what our clusters are built on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import hosts as real
import pytest
import ray_hosts
from host_network import wait
from hosts import Hosts

WHY_NOT = real.available()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no hosts on this machine: {WHY_NOT}"),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with real.started(workers=2) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def launcher(hosts) -> ray_hosts.Launcher:
    token = ray_hosts.new_token(hosts.folder / "token")
    launcher = ray_hosts.Launcher(hosts.folder / "launcher", ray_hosts.launcher_file(hosts, token))
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
