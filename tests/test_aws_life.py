"""A cluster's life on AWS as our command leads it: ``clusters/aws.yaml``, Ray's launcher, moto.

Nothing of ours and of Ray's is replaced; the account is moto's, behind HTTP, and hosts are folders
(:mod:`tests.stand_in`), which run what they are told, so that what a head has can be looked at.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("moto")

from clusters.errors import ClusterError, InvalidCluster  # noqa: E402
from compression.registry import InvalidSetting  # noqa: E402
from study.errors import StudyError  # noqa: E402
from study.remote.client import Remote  # noqa: E402
from tests import stand_in  # noqa: E402
from tests.aws_account import REGION, VARIABLES, furnish, text  # noqa: E402
from tests.aws_server import EXPIRED, Cloud, serving  # noqa: E402

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
PACKAGES = ["some-package==1.0"]


@dataclass
class World:
    """An account, its hosts, and a user with a cluster file."""

    folder: Path
    cloud: Cloud
    hosts: stand_in.Hosts
    file: Path

    def remote(self, machine: str) -> Remote:
        """As a machine sees the cluster: each keeps a state of its own."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PARETUNE_STATE", str(self.folder / machine))
            return Remote(self.file)

    def instances(self) -> list[dict[str, Any]]:
        """All that were not terminated: they cost, or their disks do."""
        found = self.ec2.describe_instances()["Reservations"]
        every = [instance for each in found for instance in each["Instances"]]
        return [each for each in every if each["State"]["Name"] != "terminated"]

    @property
    def ec2(self) -> Any:
        """The account's, from this process."""
        import boto3

        return boto3.client("ec2", REGION)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("aws")
    hosts = stand_in.Hosts(folder / "there")
    with serving() as cloud, pytest.MonkeyPatch.context() as patch:
        there = {"AWS_ENDPOINT_URL": cloud.url, "HOME": str(folder), "TMPDIR": str(folder)}
        there["PATH"] = f"{hosts.path}:{os.environ['PATH']}"
        for name, value in {**VARIABLES, **there}.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        image = furnish(folder)
        file = folder / "aws.yaml"
        file.write_text("\n".join(_pinned(line, image) for line in text().splitlines()))
        yield World(folder, cloud, hosts, file)


def _pinned(line: str, image: str) -> str:
    """Moto does not look up images by name."""
    return line.partition("resolve:ssm")[0] + image if "resolve:ssm" in line else line


@pytest.fixture
def empty(world: World) -> World:
    """Without a cluster, whatever test was before."""
    if left := [each["InstanceId"] for each in world.instances()]:
        world.ec2.terminate_instances(InstanceIds=left)
    world.cloud.asked.clear()
    return world


@pytest.fixture
def running(world: World) -> World:
    """With a head that was started from the machine ``first``."""
    if not world.instances():
        world.remote("first").cluster.up(PACKAGES, print)
    world.cloud.asked.clear()
    return world


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_up_makes_one_head_as_the_derived_file_says(empty: World) -> None:
    cluster = empty.remote("first").cluster
    assert cluster.head() is None
    assert cluster.up(PACKAGES, print)
    (head,) = empty.instances()
    tags = {each["Key"]: each["Value"] for each in head["Tags"]}
    assert tags["ray-cluster-name"] == "paretune"
    assert tags["ray-node-type"] == "head"
    assert head["IamInstanceProfile"]["Arn"].endswith("/paretune-head")
    assert [group["GroupName"] for group in head["SecurityGroups"]] == ["paretune"]
    assert mode(cluster.folder) == 0o700
    assert mode(cluster.folder / "cluster.yaml") == 0o600
    (home,) = empty.hosts.homes()
    assert home.name == head["PublicIpAddress"]
    token = home / ".ray" / "auth_token"
    assert token.read_text() == cluster.token.read_text()
    assert mode(token) == mode(cluster.token) == 0o600


def test_a_guard_stands_before_anything_is_installed_on_head_and_workers(running: World) -> None:
    (home,) = running.hosts.homes()
    called = running.hosts.called()
    guard = f"python3 {home}/.paretune/guard.py"
    assert called[0].startswith(guard)
    assert "sudo shutdown -h now" in called[0]
    packages = f"python -m pip install --quiet --disable-pip-version-check --requirement {home}"
    order = [guard, packages, "ray start --head", f"python {home}/.paretune/keeper.py"]
    found = [next(i for i, line in enumerate(called) if line.startswith(word)) for word in order]
    assert found == sorted(found)
    for name in ("guard.py", "keeper.py", "paretune_fallback.py"):
        assert (home / ".paretune" / name).is_file()
    assert (home / ".paretune" / "requirements.txt").read_text().split() == PACKAGES
    workers = yaml.safe_load((home / "ray_bootstrap_config.yaml").read_text())
    assert "guard.py" in workers["worker_setup_commands"][0]


@pytest.mark.parametrize("machine", ["first", "second"])
def test_a_second_up_takes_the_one_that_runs(running: World, machine: str) -> None:
    """From another machine as well: it finds the head by its tags and takes over its token."""
    before = running.hosts.called()
    cluster = running.remote(machine).cluster
    assert not cluster.up(PACKAGES, print)
    assert running.cloud.changes() == []
    assert [word for word in running.hosts.called()[len(before) :] if word.startswith("ray")] == []
    (home,) = running.hosts.homes()
    assert cluster.token.read_text() == (home / ".ray" / "auth_token").read_text()
    assert mode(cluster.token) == 0o600


def test_another_machine_can_look_at_it(running: World) -> None:
    assert running.remote("second").status()[0].startswith("cluster paretune runs; ")


def test_one_that_is_at_work_otherwise_is_left_alone(running: World) -> None:
    (home,) = running.hosts.homes()
    stand_in.running(home, "theirs")
    try:
        here = running.remote("second")
        with pytest.raises(InvalidCluster, match="the cluster runs study 'theirs'"):
            here.cluster.up(["other-package==2.0"], print)
        with pytest.raises(InvalidSetting, match="study 'theirs' runs; --stop it first"):
            here.down()
    finally:
        (home / "jobs.json").unlink()
    assert running.cloud.changes() == []


def test_a_head_that_does_not_answer_is_neither_started_anew_nor_ended(running: World) -> None:
    running.hosts.mark("silent")
    try:
        here = running.remote("first")
        with pytest.raises(ClusterError, match="is there and does not answer over ssh.*timed out"):
            here.cluster.up(PACKAGES, print)
        with pytest.raises(InvalidSetting, match="does not answer.*--down --force"):
            here.down()
    finally:
        running.hosts.mark("silent", False)
    assert running.cloud.changes() == []
    assert len(running.instances()) == 1


def test_with_credentials_that_expired_nothing_is_started_or_ended(running: World) -> None:
    cluster = running.remote("first").cluster
    with running.cloud.refusing(EXPIRED):
        for call in (lambda: cluster.up(PACKAGES, print), lambda: cluster.down(print)):
            with pytest.raises(ClusterError) as error:
                call()
            assert "expired; `aws sso login`" in str(error.value)
            assert "\n" not in str(error.value)
    assert running.cloud.changes() == []
    assert len(running.instances()) == 1


def test_a_down_after_which_a_machine_stays_is_an_error(running: World) -> None:
    (head,) = running.instances()
    protect(running, head, True)
    try:
        with pytest.raises(StudyError, match="machines are left"):
            running.remote("first").down()
    finally:
        protect(running, head, False)
    assert len(running.instances()) == 1


def protect(world: World, instance: dict[str, Any], on: bool) -> None:
    world.ec2.modify_instance_attribute(
        InstanceId=instance["InstanceId"], DisableApiTermination={"Value": on}
    )


def test_down_from_another_machine_ends_all(running: World) -> None:
    assert running.remote("third").down() == "cluster paretune (aws us-west-2) is down"
    assert running.instances() == []
    assert running.remote("first").cluster.head() is None


def command(world: World, **more: Any) -> subprocess.Popen[bytes]:
    """``python -m study.run --cluster ...``, of a study that is never reached."""
    config = world.folder / "small.yaml"
    config.write_text("task: digits\ntrials: 2\n")
    words = [sys.executable, "-m", "study.run", "--cluster", str(world.file)]
    words += ["--config", str(config), "--name", "never"]
    own = {"PARETUNE_STATE": str(world.folder / "command"), "PYTHONPATH": str(Path.cwd())}
    environment = {**os.environ, **own}
    return subprocess.Popen(
        words, cwd=world.folder, env=environment, stdin=subprocess.DEVNULL, **more
    )


def test_a_head_whose_packages_cannot_be_installed_is_not_left_running(empty: World) -> None:
    empty.hosts.mark("no-packages")
    try:
        process = command(empty, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = process.communicate(timeout=200)[0].decode()
    finally:
        empty.hosts.mark("no-packages", False)
    assert process.returncode == 2, said
    assert "could not install the packages of the study" in said
    assert "somebody is starting it" not in said  # it was us, and it is being ended
    assert empty.cloud.changes() == ["RunInstances", "TerminateInstances"]
    assert empty.instances() == []


def test_a_command_that_is_told_to_end_while_a_machine_is_asked_for_leaves_none(
    empty: World,
) -> None:
    empty.cloud.slow["RunInstances"] = 2.0  # the machine is there before the launcher knows of it
    try:
        process = command(empty, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        until(lambda: "RunInstances" in empty.cloud.asked, process)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=200)[0].decode()
    finally:
        empty.cloud.slow.clear()
    assert process.returncode == 130, said
    assert "--down" in said
    assert empty.instances() == []


def test_a_terminal_that_is_closed_while_the_head_installs_leaves_none(empty: World) -> None:
    """Nobody reads what it says from then on, and to write to it is an error."""
    empty.hosts.mark("slow")
    ours, theirs = pty.openpty()
    try:
        process = command(empty, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        until(empty.hosts.installing.exists, process)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        process.wait(timeout=200)
    finally:
        empty.hosts.mark("slow", False)
    assert empty.instances() == []
    assert empty.cloud.changes() == ["RunInstances", "TerminateInstances"]
    assert process.returncode == 130


def until(there: Any, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
