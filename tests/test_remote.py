"""A study on a cluster of real hosts: shipped, left, found again, fetched; the cluster ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import hosts as real
import pytest
import yaml
from hosts import Host, Hosts
from ray_hosts import ray_processes
from remote_hosts import SMALL, User, cluster_file, ctrl_c, until
from studies import essences

from study import log
from study.events import Closed, Started
from study.state import StudyState
from study.store.storage import Storage

pytestmark = real.marks(timeout=600)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with real.started(workers=2) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def user(hosts, tmp_path_factory) -> User:
    folder = tmp_path_factory.mktemp("user")
    return User(folder, cluster_file(hosts, folder, price={"head": 0.1, "worker": 0.5}))


@pytest.fixture(scope="module")
def first(user):
    """The first study starts the cluster; what it said."""
    said = user.study("first")
    print(said.text, f"{said.seconds:.1f} s")
    return said


def test_the_first_trial_begins_within_a_minute_or_so_of_the_command(hosts, user, first):
    events = log.read(Storage.open(str(user.folder / "results" / "first")))
    waited = min(e.at for e in events if isinstance(e, Started)) - first.began
    print(f"command to first trial: {waited:.1f} s")
    # 56 s on two quiet cores, which three hosts share: 60 are asked of a quiet machine.
    assert waited < 100


def records(place) -> dict[int, tuple[str, str]]:
    """What a study's trials came to, times and origins aside."""
    return essences(StudyState(log.read(Storage.open(str(place)))))


def test_a_study_is_run_on_the_workers_and_fetched(hosts, user, first):
    assert first.code == 0, first.text
    here = user.folder / "results" / "first"
    assert (here / "study.json").exists()
    assert list((here / "report").glob("*.png"))
    assert records(here) == records(hosts.shared / "studies" / "first")
    assert "shipping paretune-" in first.text
    assert "up to 2 x $0.5" in first.text, "what it costs"
    assert "--down" in first.text, "how to end it"


# Layers that no trial changes, and inputs that stay as they are: their outputs can be kept.
DEEP = '''
import time

from trainables.tasks import TASKS
from trainables.tasks.base import Task
from trainables.tasks.digits import Digits


@TASKS.register("deep")
class Deep(Digits):
    """Digits, compressed in the last layer only."""

    targets = ("5",)
    augment = Task.augment

    def loss(self, outputs, labels):
        time.sleep(0.03)
        return super().loss(outputs, labels)
'''


def when_written(host: Host) -> dict[str, float]:
    """The parts of the features that a host has, by key and name, with their times."""
    lines = host.run(
        "mkdir -p ~/.cache && find ~/.cache -path '*/features/*/part-*' -printf '%P %T@\\n'"
    )
    split = (line.split() for line in lines.splitlines())
    return {path.rpartition("features/")[2]: float(at) for path, at in split}


def test_features_are_made_by_one_machine_and_copied_by_the_other(hosts, user, first):
    (user.folder / "deep.py").write_text(DEEP)
    config = yaml.safe_load(SMALL) | {"task": "deep", "plugins": ["deep.py"], "concurrency": 2}
    (user.folder / "deep.yaml").write_text(yaml.safe_dump(config))
    running = user.start("--config", "deep.yaml", "--name", "deep")
    until(running, "/8 trials")
    deadline = time.monotonic() + 120
    while True:
        one, two = map(when_written, hosts.workers)
        if both := one.keys() & two.keys():
            break
        assert time.monotonic() < deadline, (one, two)
        time.sleep(1)
    place = hosts.shared / "studies" / "deep" / "features"
    shared = {str(p.relative_to(place)): p.stat().st_mtime for p in place.glob("*/part-*")}
    text = running.communicate(timeout=300)[0]
    assert running.returncode == 0, text
    assert both <= shared.keys()
    # Whoever makes features shares them then: with a second maker the shared ones were the newest.
    for part in both:
        assert min(one[part], two[part]) <= shared[part] <= max(one[part], two[part])
    assert not place.exists(), "what was shared goes with the search"


def test_detached_and_attached_again_it_ends_with_the_records_of_an_undisturbed_study(
    user, hosts, first
):
    left = user.start("--config", "small.yaml", "--name", "left")
    until(left, "/8 trials")
    said = ctrl_c(left)
    assert said.code == 130
    assert "detached; the study goes on" in said.text
    status = user.run("--status")
    assert "running" in status.text
    assert "left" in status.text
    second = user.study("second")
    assert second.code == 2
    assert "runs study 'left' already" in second.text
    assert user.run("--down").code == 2, "not while a study runs"
    again = user.run("--attach", "--json")
    assert again.code == 0, again.text
    answer = json.loads(again.text.splitlines()[-1])
    assert (answer["name"], answer["exit_code"], answer["trials"]) == ("left", 0, 8)
    assert (user.folder / answer["report"]["html"]).is_file(), "of the files that were fetched"
    files = [f"artifacts/{point['trial_id']}.safetensors" for point in answer["front"]]
    assert all((user.folder / answer["location"] / file).is_file() for file in files)
    assert files
    assert len(records(user.folder / "results" / "left")) >= 8
    assert records(user.folder / "results" / "left") == records(user.folder / "results" / "first")


def test_a_stopped_study_ends_in_good_order_and_is_resumed(user, first):
    begun = user.start("--config", "small.yaml", "--name", "stopped")
    until(begun, "/8 trials")
    said = user.run("--stop")
    assert (said.code, "stopped" in said.text) == (0, True), said.text
    text = begun.communicate(timeout=120)[0]
    assert begun.returncode == 143, text
    place = Storage.open(str(user.folder / "results" / "stopped"))
    assert isinstance(log.read(place)[-1], Closed), "it came to a good end, and was fetched"
    resumed = user.study("stopped", "--resume")
    assert resumed.code == 0, resumed.text
    assert records(user.folder / "results" / "stopped") == records(
        user.folder / "results" / "first"
    )


def test_at_the_end_nothing_of_ray_is_left(hosts, user, first):
    said = user.run("--down")
    assert said.code == 0, said.text
    assert "is down" in said.text
    assert not {h.name: found for h in hosts.all if (found := ray_processes(h))}
    assert not [line for line in hosts.head.processes().values() if "mlflow" in line]
    assert user.run("--status").code == 1
