"""What is shipped to a cluster, what its nodes are told, and the keeper of its head."""

from __future__ import annotations

import csv
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from clusters import derived, keeper, package
from clusters.cluster import Cluster
from clusters.errors import InvalidCluster
from clusters.file import parse
from clusters.kinds import KINDS
from clusters.token import headers, token_file
from study.config import load_config
from study.fields import yaml_lines
from study.remote.client import Remote
from study.remote.order import Order

FILE = """
cluster_name: tiny
provider: {{type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2]}}
auth: {{ssh_user: root}}
setup_commands: ["echo mine"]
file_mounts: {{"~/data": "/data"}}
metadata: {{study: {{storage: s3://b/s, {more}}}}}
"""


def read(more: str = ""):
    return parse(yaml_lines.load(FILE.format(more=more), "c.yaml"))


def decided(tmp_path: Path, given: dict[str, str]) -> dict[str, str]:
    path, config = tmp_path / "c.yaml", tmp_path / "study.yaml"
    path.write_text(FILE.format(more="trials_per_gpu: 2"))
    config.write_text("task: digits\n")
    order = Order(load_config(config, {}), config, "s", given)
    return Remote(path).overrides(order)


def derive(tmp_path: Path, more: str = ""):
    file = read(more)
    return derived.derive(file, KINDS["local"], tmp_path / "token", ["click==1"], tmp_path)


def test_the_wheel_is_the_project_and_installs(tmp_path):
    made = package.wheel()
    path = made.write(tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        (record,) = (name for name in names if name.endswith("/RECORD"))
        listed = {row[0] for row in csv.reader(io.StringIO(archive.read(record).decode()))}
    assert listed == names, "every file is in the record, and nothing else"
    assert {name.split("/")[0] for name in names} == {
        *package.FOLDERS,
        f"paretune-{version('paretune')}.dist-info",
    }
    assert not any("__pycache__" in name for name in names)
    here = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(here), str(path)], check=True)
    assert (here / "study" / "run.py").read_bytes() == Path("study/run.py").read_bytes()


def test_the_clusters_file_decides_what_the_command_line_leaves_open(tmp_path):
    assert decided(tmp_path, {}) == {
        "storage": '"s3://b/s"',
        "tracking_uri": '"http://127.0.0.1:5000"',
        "resources.gpus": "0.5",
    }
    given = {"storage": '"s3://mine/s"', "tracking_uri": '"http://10.0.0.9:5000"', "seed": "3"}
    assert decided(tmp_path, given) == {"resources.gpus": "0.5", **given}


def test_the_same_files_give_the_same_wheel(tmp_path):
    first, second = package.wheel(), package.wheel()
    assert first.sha256 == second.sha256
    (tmp_path / "a").mkdir()
    assert first.write(tmp_path).read_bytes() == second.write(tmp_path / "a").read_bytes()


def test_nodes_install_the_versions_of_this_machine():
    needed = package.requirements()
    assert f"torch=={version('torch').partition('+')[0]}" in needed
    (ray,) = (line for line in needed if line.startswith("ray["))
    assert ray == f"ray[default,tune]=={version('ray')}"
    assert not any("paretune" in line or "pytest" in line for line in needed)
    assert set(needed) < set(package.requirements(["text"]))


def test_a_package_that_ray_does_not_take_is_refused_with_its_largest_files():
    made = package.Wheel("x.whl", {"study/a.py": b"1"})
    assert not package.size_check(made, {}).failed
    check = package.size_check(made, {"my_plugin.py": b"x" * (package.MOST_BYTES + 1)})
    assert check.failed
    assert "my_plugin.py 1e+02 MB" in check.problem


def test_the_users_file_is_kept_and_ours_added(tmp_path):
    data = derive(tmp_path)
    assert data["setup_commands"][0] == "echo mine"
    assert data["file_mounts"]["~/data"] == "/data"
    assert data["file_mounts"][derived.TOKEN] == str(tmp_path / "token")
    assert "requirements.txt" in data["setup_commands"][-1]
    for part in ("head", "worker"):
        (start,) = (c for c in data[f"{part}_start_ray_commands"] if "ray start" in c)
        assert start.startswith("export RAY_AUTH_MODE=token ")
    (head,) = (c for c in data["head_start_ray_commands"] if "ray start" in c)
    assert head.endswith("--dashboard-host=127.0.0.1")
    assert read().data == yaml_lines.load(FILE.format(more=""), "c.yaml").data, "not changed"


def test_another_python_ends_the_setup_with_our_words(tmp_path):
    wrong = derive(tmp_path, "python: '3.19'")["setup_commands"]
    (check,) = (c for c in wrong if "version_info" in c)
    said = subprocess.run(check, shell=True, capture_output=True, text=True)
    assert said.returncode != 0
    assert "paretune: this node has Python 3." in said.stderr
    (check,) = (c for c in derive(tmp_path)["setup_commands"] if "version_info" in c)
    assert subprocess.run(check, shell=True).returncode == 0


def test_what_sets_up_a_node_decides_whether_it_is_set_up_again(tmp_path):
    first = derived.digest(derive(tmp_path), tmp_path)
    assert derived.digest(derive(tmp_path), tmp_path) == first
    assert derived.digest(derive(tmp_path, "idle_minutes: 7"), tmp_path) != first


def test_the_token_is_one_and_private(tmp_path):
    path = token_file(tmp_path / "c")
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert headers(token_file(tmp_path / "c")) == headers(path)
    assert len(path.read_text()) == 64
    assert headers(token_file(tmp_path / "d")) != headers(path)


def test_an_unknown_kind_of_cluster_is_named(tmp_path):
    file = parse(yaml_lines.load("cluster_name: a\nprovider: {type: vsphere}\n", "c.yaml"))
    said = r"c.yaml:2: provider.type: 'vsphere'; expected .*local"
    with pytest.raises(InvalidCluster, match=said):
        Cluster(file, tmp_path)


@pytest.fixture
def job_server(monkeypatch, tmp_path):
    """Ray's job server as the keeper sees it; what it answers, and the headers that it got."""
    answers, seen = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            seen.append(dict(self.headers))
            body = json.dumps(answers[-1]).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, answers, seen
    server.shutdown()
    server.server_close()


def test_a_cluster_is_busy_while_a_job_waits_or_runs(job_server, monkeypatch, tmp_path):
    port, answers, seen = job_server
    monkeypatch.setattr(keeper, "TOKEN", token_file(tmp_path))
    for status in ("PENDING", "RUNNING"):
        answers.append([{"status": "SUCCEEDED"}, {"status": status}])
        assert keeper.busy(port)
    answers.append([{"status": "SUCCEEDED"}, {"status": "FAILED"}, {"status": "STOPPED"}])
    assert not keeper.busy(port)
    assert seen[-1]["Authorization"] == headers(keeper.TOKEN)["Authorization"]
    assert not keeper.busy(1), "a Ray that does not answer is idle"


def test_idleness_counts_from_the_last_work():
    now = [0.0]
    idle = keeper.Idle(10, lambda: now[0])
    for at, busy, over in [
        (9, False, False),
        (9.5, True, False),
        (19, False, False),
        (20, False, True),
    ]:
        now[0] = at
        assert idle.over(busy) is over


def test_an_idle_keeper_runs_the_command_once(tmp_path):
    done = tmp_path / "done"
    code = "import keeper; keeper.EVERY = 0.1; keeper.main()"
    given = ["--idle-seconds", "0.2", "--command", f"echo $HOME >> {done}"]
    subprocess.run(
        [sys.executable, "-c", code, *given],
        env={"HOME": str(tmp_path), "PYTHONPATH": str(Path("clusters").resolve())},
        check=True,
        timeout=30,
    )
    assert done.read_text().splitlines() == [str(tmp_path)]


def test_a_keeper_is_ended_by_another_and_runs_no_command(tmp_path):
    done = tmp_path / "done"
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    call = [sys.executable, str(Path("clusters/keeper.py").resolve())]
    first = subprocess.Popen([*call, "--command", f"touch {done}"], env=environment)
    pid = tmp_path / ".paretune" / "keeper.pid"
    deadline = time.monotonic() + 20
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert int(pid.read_text()) == first.pid
    time.sleep(0.2)  # its signal handler
    threading.Thread(target=first.wait, daemon=True).start()  # what has ended is seen to be gone
    subprocess.run([*call, "--end"], env=environment, check=True, timeout=30)
    assert first.wait(10) == 0
    assert not done.exists()
