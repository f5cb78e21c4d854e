"""Our AWS file in the hands of Ray's own launcher and autoscaler, on moto's EC2."""

from __future__ import annotations

import base64
import copy
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("moto")

from clusters.fallback import SCORER  # noqa: E402
from clusters.kinds import KINDS  # noqa: E402
from tests.aws_account import REGION, SOURCE, VARIABLES, furnish  # noqa: E402

# Ray asks EC2 to describe every type there is, which takes moto 10 s: what it would find is here.
WORKER = {"CPU": 4, "GPU": 1}
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
HEAD_TAGS = {
    "ray-node-type": "head",
    "ray-user-node-type": "head",
    "ray-node-name": "ray-paretune-head",
    "ray-node-status": "up-to-date",
    "ray-launch-config": "given",
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The file as Ray has it after its bootstrap, in a furnished account."""
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config, validate_config

    for name, value in {**VARIABLES, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    forget()
    with mock_aws():
        image = furnish(tmp_path)
        data = prepare_config(yaml.safe_load(SOURCE.read_text()))
        validate_config(data)
        for node in data["available_node_types"].values():
            node["node_config"]["ImageId"] = image  # moto does not resolve:ssm
        yield bootstrap_aws(data)
    forget()


def forget() -> None:
    """Ray keeps its providers and clients; those of another test lead to another account."""
    from ray.autoscaler._private.aws import utils
    from ray.autoscaler._private.providers import _clear_provider_cache

    _clear_provider_cache()
    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()


@pytest.fixture
def head(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A provider with a head.

    Asked for 1 to n machines, EC2 gives as many as it has, moto one: here it is n.
    """
    from ray.autoscaler._private.providers import _get_node_provider

    provider = _get_node_provider(config["provider"], config["cluster_name"])
    create = provider.ec2_fail_fast.create_instances
    monkeypatch.setattr(
        provider.ec2_fail_fast,
        "create_instances",
        lambda **words: create(**{**words, "MinCount": words["MaxCount"]}),
    )
    node = copy.deepcopy(config["available_node_types"]["head"]["node_config"])
    provider.create_node(node, dict(HEAD_TAGS), 1)
    return provider


def instances(*states: str) -> list[dict[str, Any]]:
    """As EC2 has them, in these states."""
    import boto3

    filters = [{"Name": "instance-state-name", "Values": list(states or ("pending", "running"))}]
    found = boto3.client("ec2", REGION).describe_instances(Filters=filters)["Reservations"]
    return [instance for each in found for instance in each["Instances"]]


def tags(instance: dict[str, Any]) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in instance["Tags"]}


def types() -> Counter[str]:
    """How many workers of each type run."""
    found = Counter(tags(each)["ray-user-node-type"] for each in instances())
    del found["head"]
    return found


class Cluster:
    """Ray's autoscaler with a demand that the test sets; workers are idle or busy as it says."""

    def __init__(self, config: dict[str, Any], provider: Any) -> None:
        from ray.autoscaler._private.autoscaler import StandardAutoscaler
        from ray.autoscaler._private.load_metrics import LoadMetrics

        config = copy.deepcopy(config)
        config["provider"] |= {"disable_node_updaters": True, "foreground_node_launch": True}
        config["provider"]["worker_liveness_check"] = False
        self.metrics = LoadMetrics()
        self.provider = provider
        self.loop = StandardAutoscaler(
            lambda: copy.deepcopy(config), self.metrics, Gcs(), update_interval_s=0
        )

    def step(self, demand: list[dict[str, float]], idle_seconds: float = 0.0) -> None:
        """A round of it: each worker reports, then it launches and terminates."""
        for node in self.provider.non_terminated_nodes({}):
            is_head = self.provider.node_tags(node)["ray-node-type"] == "head"
            has = {"CPU": 0} if is_head else WORKER
            free = has if idle_seconds else dict.fromkeys(has, 0)
            self.metrics.update(
                self.provider.internal_ip(node),
                node.encode(),
                has,
                free,
                idle_seconds,
                demand,
            )
        self.loop.update()


class Gcs:
    def drain_nodes(self, nodes: Any, timeout: float = 0) -> Any:
        return list(nodes)


@pytest.fixture
def cluster(
    config: dict[str, Any], head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Cluster:
    kind = KINDS["aws"]
    for name, body in kind.files().items():  # as they lie on the head
        (tmp_path / name).write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(SCORER, kind.environment()[SCORER])
    logging.getLogger("ray.autoscaler").setLevel(logging.CRITICAL)
    return Cluster(config, head)


def refuse_spot(monkeypatch: pytest.MonkeyPatch, provider: Any) -> list[str]:
    """EC2 without capacity for spot; the markets that were asked for, in order."""
    from botocore.exceptions import ClientError

    asked: list[str] = []
    real = provider.ec2_fail_fast.create_instances

    def create(**words: Any) -> Any:
        market = words.get("InstanceMarketOptions", {}).get("MarketType", "on demand")
        asked.append(market)
        if market == "spot":
            error = {"Code": "InsufficientInstanceCapacity", "Message": "no capacity"}
            raise ClientError({"Error": error}, "RunInstances")
        return real(**words)

    monkeypatch.setattr(provider.ec2_fail_fast, "create_instances", create)
    return asked


def test_an_instance_is_as_the_file_says(config: dict[str, Any], head: Any) -> None:
    import boto3

    ec2 = boto3.client("ec2", REGION)
    (found,) = instances()
    assert found["InstanceType"] == "m6i.large"
    assert found["IamInstanceProfile"]["Arn"].endswith("/paretune-head")
    assert found["KeyName"] == "paretune"
    assert tags(found)["ray-cluster-name"] == "paretune"
    assert [group["GroupName"] for group in found["SecurityGroups"]] == ["paretune"]
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    behaviour = ec2.describe_instance_attribute(
        InstanceId=found["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    given = boto3.client("ec2", REGION).describe_instance_attribute(
        InstanceId=found["InstanceId"], Attribute="userData"
    )["UserData"]["Value"]
    script = base64.b64decode(given).decode()
    assert script.startswith("#!/bin/sh\nshutdown -h +"), "it ends itself if nobody sets it up"
    assert "sudo shutdown -c" in config["setup_commands"][-1]
    volumes = [each["Ebs"]["VolumeId"] for each in found["BlockDeviceMappings"]]
    for volume in ec2.describe_volumes(VolumeIds=volumes)["Volumes"]:
        assert volume["Encrypted"]
        assert (volume["VolumeType"], volume["Size"]) == ("gp3", 120)


def test_workers_have_the_role_of_workers(config: dict[str, Any]) -> None:
    """Of an instance on spot moto forgets it."""
    for name in ("gpu_spot", "gpu_on_demand"):
        node = config["available_node_types"][name]["node_config"]
        assert node["IamInstanceProfile"] == {"Name": "paretune-worker"}
        assert node["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert "shutdown -h" in node["UserData"]


def test_the_group_that_is_there_is_used_and_left_as_it_is(config: dict[str, Any]) -> None:
    import boto3

    groups = boto3.client("ec2", REGION).describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["paretune"]}]
    )["SecurityGroups"]
    (group,) = groups
    used = {
        each
        for node in config["available_node_types"].values()
        for each in node["node_config"]["SecurityGroupIds"]
    }
    assert used == {group["GroupId"]}
    ranges = [r["CidrIp"] for rule in group["IpPermissions"] for r in rule["IpRanges"]]
    assert ranges == ["203.0.113.7/32"]


def test_it_grows_from_nothing_on_spot_and_shrinks_to_nothing(cluster: Cluster) -> None:
    assert types() == {}
    cluster.step([WORKER] * 3)
    assert types() == {"gpu_spot": 3}
    workers = [each for each in instances() if tags(each)["ray-node-type"] == "worker"]
    assert {each["InstanceLifecycle"] for each in workers} == {"spot"}
    assert {each["MetadataOptions"]["HttpTokens"] for each in workers} == {"required"}
    cluster.step([])
    assert types() == {"gpu_spot": 3}  # they are busy
    cluster.step([], idle_seconds=6 * 60)
    assert types() == {}
    assert len(instances("terminated", "shutting-down")) == 3
    assert instances("stopped", "stopping") == []


def test_it_grows_no_further_than_it_may(cluster: Cluster) -> None:
    for _ in range(6):
        cluster.step([WORKER] * 50)
    assert sum(types().values()) == 8


def test_two_trials_that_share_a_card_ask_for_one_machine(cluster: Cluster) -> None:
    cluster.step([{"CPU": 1, "GPU": 0.5}] * 2)
    assert types() == {"gpu_spot": 1}


def test_without_spot_capacity_it_falls_back_to_on_demand_and_later_tries_again(
    cluster: Cluster, head: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = refuse_spot(monkeypatch, head)
    cluster.step([WORKER] * 2)
    assert types() == {}
    assert set(asked) == {"spot"}
    assert len(asked) >= 3  # every zone was asked
    cluster.step([WORKER] * 2)
    assert types() == {"gpu_on_demand": 2}
    tracker = cluster.loop.node_provider_availability_tracker
    later = tracker.timer() + 31 * 60
    monkeypatch.setattr(tracker, "timer", lambda: later)
    asked.clear()
    cluster.step([WORKER])
    assert set(asked) == {"spot"}


def test_rays_own_scorer_asks_for_spot_for_ever(
    config: dict[str, Any], head: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day that this fails, clusters/fallback.py can go."""
    monkeypatch.delenv(SCORER, raising=False)
    asked = refuse_spot(monkeypatch, head)
    stock = Cluster(config, head)
    for _ in range(3):
        stock.step([WORKER])
    assert set(asked) == {"spot"}
    assert types() == {}


def test_all_that_ends_ends_for_good(cluster: Cluster, head: Any) -> None:
    cluster.step([WORKER] * 2)
    head.terminate_nodes(head.nodes_for_teardown({}))
    assert instances() == []
    assert instances("stopped", "stopping") == []


def test_rays_second_autoscaler_does_not_fall_back_either() -> None:
    """It notes types whose machines did not get ready, not those that were refused."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
        CloudResourceMonitor,
    )
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    monitor = CloudResourceMonitor()
    for status, noted in ((Instance.ALLOCATION_FAILED, 0), (Instance.ALLOCATION_TIMEOUT, 1)):
        event = InstanceUpdateEvent(
            instance_id="1", new_instance_status=status, instance_type="gpu_spot"
        )
        monitor.notify([event])
        assert len(monitor.get_recoverable_resource_availabilities()) == noted
