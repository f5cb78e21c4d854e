"""Ray's autoscaler with machines that are processes: growth from none, a loss, and none again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusters.connection import ENVIRONMENT
from clusters.fallback import SCORER, score
from clusters.privacy import _read_again
from study.fields.sections import Resources
from study.loop.placement import Node
from study.remote.nodes import await_first
from tests.mlflow_server import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
WORKER = {
    "resources": {"CPU": 1, "GPU": 1, "card": 1},
    "node_config": {},
    "min_workers": 0,
    "max_workers": 2,
}
HEAD = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
SECONDS = 120.0


def launcher_file(address: str) -> dict[str, Any]:
    """As the head gets it from Ray's launcher, for Ray's provider of fake machines."""
    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": HEAD, "spot": WORKER, "on_demand": WORKER},
        **dict.fromkeys(("auth", "docker", "file_mounts"), {}),
        **{
            name: []
            for name in (
                *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
                *("initialization_commands", "setup_commands"),
                *("head_setup_commands", "worker_setup_commands"),
                *("head_start_ray_commands", "worker_start_ray_commands"),
            )
        },
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A head for no trials and two types of workers, as in our files; our scorer chooses.

    Ray's own ``AutoscalingCluster`` ends every Ray of this machine, and its wheel lacks a file.
    """
    import ray

    folder, port = tmp_path_factory.mktemp("fake"), free_port()
    address = f"{ray.util.get_node_ip_address()}:{port}"
    (folder / "cluster.json").write_text(json.dumps(launcher_file(address)))
    token = folder / "token"
    token.touch(0o600)
    token.write_text("0" * 32)
    given = {
        "RAY_enable_autoscaler_v2": "0",
        SCORER: f"{score.__module__}.{score.__name__}",
        "PYTHONPATH": os.getcwd(),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_HEARTBEAT_TIMEOUT_S": "10",  # then a machine counts as lost
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        **ENVIRONMENT,
    }
    words = ["ray", "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
    words += ["--include-dashboard=false", "--dashboard-agent-listen-port=0"]
    words += [f"--temp-dir=/tmp/pt{port}"]  # short: sockets have paths of at most 107 characters
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        _read_again()
        log = open(folder / "log", "w")  # noqa: SIM115
        head = subprocess.Popen(
            [*words, f"--autoscaling-config={folder / 'cluster.json'}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            connect(ray, address)
            yield
        finally:
            ray.shutdown()
            head.terminate()
            head.wait(30)
            end(Path(f"/tmp/pt{port}"))
    _read_again()


def connect(ray: Any, address: str) -> None:
    end = time.monotonic() + SECONDS
    while not ray.is_initialized():
        try:
            ray.init(address, log_to_driver=False, logging_level="CRITICAL")
        except ConnectionError:
            assert time.monotonic() < end
            time.sleep(1)


def end(folder: Path) -> None:
    """What is left: the fake machines' raylets, with all that they started."""
    import shutil

    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def workers() -> list[str]:
    import ray

    return [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("card")]


def until(what: Callable[[], bool]) -> float:
    """How long it took to come true."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < SECONDS, f"not within {SECONDS:g} s: {workers()}"
        time.sleep(0.3)
    return time.monotonic() - began


def test_a_first_machine_is_asked_for_with_a_part_of_its_gpu_and_goes_again(cluster: None) -> None:
    said: list[str] = []
    machine, wanted = Node(1, 1.0, float("inf")), Resources(cpus=1, gpus=0.5)
    assert workers() == []
    await_first([machine], wanted, lambda: len(workers()), said.append)
    assert len(workers()) == 1
    assert said == ["asking for a first machine; those of a cloud take minutes"]
    print(f"gone in {until(lambda: workers() == []):.0f} s")


def test_workers_come_with_work_are_replaced_when_lost_and_go_without_it(cluster: None) -> None:
    import ray

    @ray.remote(num_cpus=1, resources={"card": 1}, max_restarts=-1)
    class Trial:
        def place(self) -> tuple[str, int]:
            return ray.get_runtime_context().get_node_id(), os.getppid()

    assert workers() == []
    trials = [Trial.remote() for _ in range(2)]
    print(f"grown to 2 in {until(lambda: len(workers()) == 2):.0f} s")
    places = dict(ray.get([trial.place.remote() for trial in trials], timeout=SECONDS))
    assert len(places) == 2

    lost = next(iter(places))
    os.kill(places[lost], signal.SIGKILL)  # the raylet, whose child the trial is
    until(lambda: lost not in workers())
    print(f"replaced in {until(lambda: len(workers()) == 2):.0f} s")

    for trial in trials:
        ray.kill(trial)
    print(f"gone in {until(lambda: workers() == []):.0f} s")
