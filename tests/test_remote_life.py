"""Whether a cluster is there, who may end it, and what outlives it: by a launcher that is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from remote_hosts import NOWHERE

from clusters import guard, keeper, state
from clusters.cluster import Cluster
from clusters.errors import ClusterError
from clusters.file import parse
from clusters.launcher import Launcher
from clusters.ssh import FAILED, RAY_RUNS, Done, Ssh
from compression.registry import InvalidSetting
from study.config import load_config
from study.events import Closed
from study.fields import yaml_lines
from study.log import EventLog
from study.remote import looks, nodes, results
from study.remote.client import Remote
from study.remote.order import Order, say
from study.remote.watching import Gone
from study.store.storage import Storage


class Host:
    """A head as ssh finds it."""

    def __init__(self, monkeypatch):
        self.answers, self.ray, self.token, self.asked = True, True, "abc", list[str]()
        monkeypatch.setattr(Ssh, "run", lambda _, command, **more: self.run(command))

    def run(self, command):
        self.asked.append(command)
        if not self.answers:
            return Done(FAILED, "", "Connection timed out\n")
        if "auth_token" in command:
            return Done(0, self.token, "")
        if "gcs_server" in command:
            return Done(0 if self.ray else 1, "", "")
        return Done(0, "", "")


@pytest.fixture
def host(monkeypatch):
    return Host(monkeypatch)


@pytest.fixture
def told(monkeypatch):
    """What the launcher is asked, and what it says where the head is."""
    calls = {"head": "10.0.0.1", "asked": []}

    def address(launcher):
        if isinstance(calls["head"], Exception):
            raise calls["head"]
        return calls["head"]

    def down(launcher, say):
        calls["asked"].append("down")
        calls["head"] = None

    def up(launcher, say):
        calls["asked"].append("up")
        calls["head"] = "10.0.0.1"

    monkeypatch.setattr(Launcher, "head_address", address)
    monkeypatch.setattr(Launcher, "down", down)
    monkeypatch.setattr(Launcher, "up", up)
    return calls


def remote(tmp_path, monkeypatch, text=NOWHERE) -> Remote:
    monkeypatch.setenv("PARETUNE_STATE", str(tmp_path / "state"))
    (tmp_path / "c.yaml").write_text(text)
    return Remote(tmp_path / "c.yaml")


def test_each_place_has_a_cluster_of_that_name(tmp_path):
    folders = set()
    for place in ("aws, region: a", "aws, region: b", "gcp, project_id: p, region: a"):
        text = f"cluster_name: c\nprovider: {{type: {place}}}\n"
        folders.add(state.folder(parse(yaml_lines.load(text, "c.yaml")), tmp_path))
    assert len(folders) == 3
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_a_head_that_does_not_answer_is_left_alone(tmp_path, monkeypatch, host, told):
    host.answers = False
    with pytest.raises(ClusterError, match=r"10\.0\.0\.1 is there and does not answer.*timed out"):
        remote(tmp_path, monkeypatch).cluster.up([], print)
    assert told["asked"] == []


def test_where_nobody_says_whether_there_is_a_head_none_is_started(
    tmp_path, monkeypatch, host, told
):
    told["head"] = ClusterError("credentials expired")
    with pytest.raises(ClusterError, match="expired"):
        remote(tmp_path, monkeypatch).cluster.up([], print)
    assert told["asked"] == []


def test_a_cluster_that_another_machine_started_is_entered_with_its_token(
    tmp_path, monkeypatch, host, told
):
    cluster = remote(tmp_path, monkeypatch).cluster
    mine = cluster.token.read_text()
    host.token = "the-others"
    assert cluster.head() is not None
    assert cluster.token.read_text() == "the-others" != mine
    assert cluster.token.stat().st_mode & 0o777 == 0o600


def test_a_launch_that_fails_is_ended_and_one_that_is_interrupted(
    tmp_path, monkeypatch, host, told
):
    for error in (ClusterError("no capacity"), KeyboardInterrupt()):
        told["head"], told["asked"] = None, []

        def up(launcher, say, error=error):
            raise error

        monkeypatch.setattr(Launcher, "up", up)
        with pytest.raises(type(error)):
            remote(tmp_path, monkeypatch).cluster.up([], print)
        assert told["asked"] == ["down"]


@pytest.mark.parametrize("answers", [True, False])
def test_what_may_be_at_work_is_ended_by_force_alone(tmp_path, monkeypatch, host, told, answers):
    host.answers = answers  # Ray runs there, and no tunnel leads to its job server
    monkeypatch.setattr(Cluster, "enter", lambda *_: (_ for _ in ()).throw(ClusterError("no way")))
    here = remote(tmp_path, monkeypatch)
    with pytest.raises(InvalidSetting, match="--down --force"):
        here.down()
    assert told["asked"] == []
    assert "tiny (aws eu-north-1) is down" in here.down(force=True)
    assert told["asked"] == ["down"]


def test_a_head_without_ray_is_ended_without_a_question(tmp_path, monkeypatch, host, told):
    host.ray = False
    remote(tmp_path, monkeypatch).down()
    assert told["asked"] == ["down"]


def test_a_head_that_is_still_there_is_not_called_down(tmp_path, monkeypatch, host, told):
    monkeypatch.setattr(Launcher, "down", lambda launcher, say: None)
    with pytest.raises(ClusterError, match="still there"):
        remote(tmp_path, monkeypatch).cluster.down(print)


def test_a_terminal_that_was_closed_keeps_nothing_from_being_ended(monkeypatch):
    class Closed:
        def write(self, text):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    say("ending what was started")


def test_a_study_outlives_its_cluster(tmp_path, monkeypatch, host, told, capsys):
    place = Storage.open(f"file://{tmp_path}/store")
    for name, at in (("old", 1.0), ("new", 2.0)):
        with EventLog(place.sub(name)) as log:
            log.append(Closed(at, "exit 0", 1.0))
        place.sub(name).write_text("report/front.csv", name)
    monkeypatch.chdir(tmp_path)
    told["head"] = None
    text = NOWHERE.replace("file:///tmp/none", f"file://{tmp_path}/store")
    here = remote(tmp_path, monkeypatch, text)
    with pytest.raises(Gone):
        here.status()
    ended = here.attach(None)
    assert ended.answer() == {
        "name": "new",
        "location": str(tmp_path / "results" / "new"),
        "exit_code": 0,
    }
    assert (tmp_path / "results" / "new" / "report" / "front.csv").read_text() == "new"
    with pytest.raises(InvalidSetting, match="there: new, old"):
        here.attach("other")


def test_a_changed_file_is_copied_again_a_finished_artifact_is_not(tmp_path):
    here, there = Storage.open(tmp_path / "a"), Storage.open(tmp_path / "b")
    for name in ("study.json", "artifacts/x"):
        here.write_text(name, "old")
    results.copy(here, there)
    for name in ("study.json", "artifacts/x"):
        here.write_text(name, "new")
    results.copy(here, there)
    assert there.read_text("study.json") == "new"
    assert there.read_text("artifacts/x") == "old"


def order(tmp_path, text="task: digits\n", **more) -> Order:
    (tmp_path / "s.yaml").write_text(text)
    given = more.pop("given", {})
    path = tmp_path / "s.yaml"
    return Order(load_config(path, given), path, more.pop("name", "s"), given, **more)


def test_a_study_s_own_mlflow_and_plugins_count(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text('"""Nothing."""\n')
    here = remote(tmp_path, monkeypatch)
    mine = order(tmp_path, "task: digits\ntracking_uri: http://10.0.0.9:5000\n")
    assert "tracking_uri" not in here.overrides(mine)
    given = {"plugins": f'["{tmp_path}/mine.py"]'}
    assert here.overrides(order(tmp_path, given=given))["plugins"] == '["mine.py"]'


def test_what_only_this_machine_has_is_told_before_a_launch(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    found = list(looks.path_checks(order(tmp_path, warm_start=str(tmp_path / "old"))))
    assert [check.failed for check in found] == [True]
    assert not list(looks.path_checks(order(tmp_path, warm_start="s3://bucket/old")))


def test_paths_of_this_machine_are_found_wherever_settings_name_them(tmp_path):
    here, gone = f"{tmp_path}/here", f"{tmp_path}/gone"
    Path(here).mkdir()
    settings = {"data": here, "more": [gone, {"deep": f"{tmp_path}/"}], "n": 3, "uri": "s3://b/c"}
    assert looks.local_paths(settings) == [f"{tmp_path}/", here]


def test_a_name_that_is_taken_is_told_before_a_launch(tmp_path, monkeypatch):
    place = Storage.open(f"file://{tmp_path}/store")
    with EventLog(place.sub("s")) as log:
        log.append(Closed(1.0, "exit 0", 1.0))
    file = remote(
        tmp_path, monkeypatch, NOWHERE.replace("file:///tmp/none", f"file://{tmp_path}/store")
    ).file
    assert looks.name_check(file, order(tmp_path)).failed
    assert not looks.name_check(file, order(tmp_path, resume=True)).failed
    assert looks.name_check(file, order(tmp_path, name="t", resume=True)).failed
    assert looks.name_check(file, order(tmp_path, name="a b")).failed


TYPES = {
    "head_node_type": "head",
    "max_workers": 8,
    "available_node_types": {
        "head": {"resources": {"CPU": 0}},
        "cpu": {"resources": {"CPU": 16}, "max_workers": 8},
        "gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 8},
    },
}


@pytest.mark.parametrize(("living", "more"), [(0, 8), (3, 5), (8, 0), (9, 0)])
def test_machines_that_may_come_are_those_that_do_not_live_gpus_first(living, more):
    found = nodes.promised(TYPES, living)
    assert [node.gpus for node in found] == [1] * more


def test_a_guard_ends_a_machine_without_ray_alone(monkeypatch):
    monkeypatch.setattr(guard, "EVERY", 0.02)
    answers = iter([True, True, False, False, False, False, False, False, False, False])
    began = time.monotonic()
    guard.watch(0.1, lambda: next(answers))
    assert time.monotonic() - began >= 0.12


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_ray_that_ended_unasked_does_not_run(tmp_path, monkeypatch):
    """As in a container whose first process is no init."""
    process = subprocess.Popen(["sleep", "60"])
    (tmp_path / "pgrep").write_text(f"#!/bin/sh\necho {process.pid}\n")
    (tmp_path / "pgrep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def seen():
        return guard.ray_runs(), subprocess.run(["sh", "-c", RAY_RUNS]).returncode == 0

    try:
        assert seen() == (True, True)
    finally:
        process.kill()
    stat = Path(f"/proc/{process.pid}/stat")
    while not stat.read_text().rpartition(") ")[2].startswith("Z"):
        time.sleep(0.01)
    assert seen() == (False, False)
    process.wait()
    assert seen() == (False, False)
    monkeypatch.setattr(guard, "PROC", tmp_path)  # as on systems that have none
    assert guard.ray_runs()


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs pgrep")
def test_a_guard_goes_to_the_background_and_is_alone(tmp_path):
    home, done = tmp_path / "home", tmp_path / "done"
    home.mkdir()
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"pgrep": "exit 1", "crontab": f"cat >> {tmp_path}/cron"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    environment = {"HOME": str(home), "PATH": f"{tools}:{os.environ['PATH']}"}
    call = [sys.executable, str(Path("clusters/guard.py").resolve())]
    call += ["--minutes", "0.03", "--command", f"echo $HOME >> {done}"]
    for _ in range(2):
        subprocess.run(call, env=environment, stdin=subprocess.DEVNULL, check=True, timeout=30)
    deadline = time.monotonic() + 20
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert done.read_text().splitlines() == [str(home)]
    assert "@reboot" in (tmp_path / "cron").read_text()


def test_a_job_server_that_is_silent_is_not_a_cluster_that_is_idle(monkeypatch):
    monkeypatch.setattr(keeper, "STUDY", "-m no[.]such[.]study")
    assert not keeper.busy(1)
    code = "import time; time.sleep(30)"
    words = [sys.executable, "-c", code, "-m", "this.study.of.a.test"]
    process = subprocess.Popen(words)
    try:
        monkeypatch.setattr(keeper, "STUDY", r"-m this\.study\.of\.a\.test")
        assert keeper.busy(1)
    finally:
        process.kill()
        process.wait()
