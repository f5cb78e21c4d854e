"""What is looked at in an AWS account before a launch: each check well, and each problem of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto")

from clusters.aws import identity, machines  # noqa: E402
from clusters.aws.account import Account, Answered, Look, NotAllowed, look  # noqa: E402
from clusters.check import Check  # noqa: E402
from clusters.kinds import KINDS  # noqa: E402
from clusters.kinds.aws import LOOKS, of_file  # noqa: E402
from tests.aws_account import (  # noqa: E402
    BUCKET,
    REGION,
    VARIABLES,
    Answer,
    allow,
    answering,
    answers,
    cluster,
    furnish,
    text,
)

CLIENTS: dict[str, Any] = {}  # boto3 takes its time to make one


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One furnished account for all tests; those that change it put it back."""
    from moto import mock_aws

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**VARIABLES, "HOME": str(home)}.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        with mock_aws():
            yield furnish(home)


def checks(image: str, source: str | None = None, **other: Answer) -> list[Check]:
    with answering(pytest.MonkeyPatch, {**answers(image), **other}):
        return list(KINDS["aws"].checks(cluster(source or text())))


def found(name: str, image: str, source: str | None = None, **other: Answer) -> list[Check]:
    """Of one look alone."""
    looks = [each for each in LOOKS if each.name == name]
    with answering(pytest.MonkeyPatch, {**answers(image), **other}):
        return list(look(Account(cluster(source or text()), CLIENTS), looks))


def worst(checks: list[Check]) -> Check:
    """The failed one, or the warning."""
    bad = [each for each in checks if each.problem]
    assert bad, f"no problem among {[str(each) for each in checks]}"
    return min(bad, key=lambda each: each.warning)


def refuses(code: str, words: str = "said no") -> Answer:
    def answer(**_: Any) -> dict[str, Any]:
        raise Answered(code, words)

    return answer


def denies(permission: str) -> Answer:
    def answer(**_: Any) -> dict[str, Any]:
        raise NotAllowed(permission)

    return answer


def test_in_an_account_that_is_ready_all_is_well_and_each_look_says_so(image: str) -> None:
    seen = checks(image)
    assert [str(each) for each in seen if each.problem] == []
    assert {look.name for look in LOOKS} <= {each.name for each in seen}


def test_without_boto3_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "find_spec", lambda name: None)
    check = identity.package()
    assert check.failed
    assert "paretune[aws]" in check.mend


def test_an_unknown_region_is_corrected() -> None:
    check = identity.region(cluster(text().replace("us-west-2", "us-wset-2")))
    assert check.failed
    assert "us-west-2" in check.mend


def test_a_zone_of_another_region_is_told() -> None:
    check = identity.region(cluster(text().replace("us-west-2a,", "us-east-1a,")))
    assert check.failed
    assert "us-east-1a does not lie in us-west-2" in check.problem


def test_keys_do_not_belong_into_the_file(image: str) -> None:
    source = text().replace(
        "  type: aws\n", "  type: aws\n  aws_credentials: {aws_access_key_id: x}\n"
    )
    assert "keys in the cluster file" in worst(checks(image, source)).problem


@pytest.mark.parametrize(
    ("code", "said"),
    [("ExpiredToken", "they have expired"), ("InvalidClientTokenId", "does not take them")],
)
def test_bad_credentials_end_the_checks_and_expired_ones_are_told_apart(
    image: str, code: str, said: str
) -> None:
    seen = checks(image, get_caller_identity=refuses(code))
    assert said in worst(seen).problem
    assert seen[-1].name == "credentials"


def test_no_credentials_at_all(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    check = worst(checks(image))
    assert check.failed
    assert "aws configure" in check.mend


def test_a_type_that_the_region_lacks(image: str) -> None:
    check = worst(found("instance types", image, text().replace("g6.xlarge", "g99.huge")))
    assert check.failed
    assert "us-west-2 has no g99.huge" in check.problem


def test_gpus_that_the_type_does_not_have(image: str) -> None:
    check = worst(found("instance types", image, text().replace("GPU: 1}", "GPU: 4}", 1)))
    assert check.failed
    assert "g6.xlarge has 1 GPUs, resources say 4" in check.problem


def test_zones_without_a_public_subnet(image: str) -> None:
    source = text().replace("us-west-2a,us-west-2b,us-west-2c", "us-west-2z")
    check = worst(found("zones", image, source))
    assert check.failed
    assert "create-default-vpc" in check.mend


def test_a_type_that_the_zones_lack(image: str) -> None:
    offered = {"InstanceTypeOfferings": [{"InstanceType": "m6i.large", "Location": "us-west-2a"}]}
    seen = found("zones", image, describe_instance_type_offerings=lambda **_: offered)
    assert [each.failed for each in seen] == [True, False]
    assert "g6.xlarge is not offered in us-west-2a, us-west-2b, us-west-2c" in seen[0].problem


def test_no_image_is_rays_old_one(image: str) -> None:
    source = "\n".join(line for line in text().splitlines() if "ImageId" not in line)
    assert "Ubuntu 18.04" in worst(found("image", image, source)).problem


def test_an_image_of_another_region(image: str) -> None:
    seen = found("image", image, describe_images=refuses("InvalidAMIID.NotFound"))
    assert worst(seen).failed
    seen = found("image", image, describe_images=lambda **_: {"Images": []})
    assert "ids differ by region" in worst(seen).problem


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"State": "pending"}, "is pending, not available"),
        ({"Architecture": "arm64"}, "is for arm64, m6i.large is not"),
        (
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 500}}]},
            "needs 500 GB, VolumeSize is 120",
        ),
    ],
)
def test_an_image_that_does_not_fit(image: str, wrong: dict[str, Any], said: str) -> None:
    right = {
        "ImageId": "ami-1",
        "State": "available",
        "Architecture": "x86_64",
        "RootDeviceName": "/dev/sda1",
    }
    check = worst(found("image", image, describe_images=lambda **_: {"Images": [right | wrong]}))
    assert check.failed
    assert said in check.problem


def quota_of(value: float) -> Answer:
    return lambda **_: {"Quota": {"Value": value}}


def test_a_quota_of_nothing_fails_and_the_mend_asks_for_what_is_needed(image: str) -> None:
    check = worst(found("quota", image, get_service_quota=quota_of(0)))
    assert check.failed
    assert "0 of " in check.problem
    seen = found("quota", image, get_service_quota=quota_of(0))
    assert any("--quota-code L-3819A6DF --desired-value 32" in each.mend for each in seen)


def test_a_quota_for_some_of_the_machines_is_a_warning(image: str) -> None:
    check = worst(found("quota", image, get_service_quota=quota_of(9)))
    assert not check.failed
    assert "2 of 8 machines" in check.problem


def test_a_quota_that_was_never_changed_is_the_default(image: str) -> None:
    seen = found(
        "quota",
        image,
        get_service_quota=refuses("NoSuchResourceException"),
        get_aws_default_service_quota=quota_of(64),
    )
    assert not any(each.problem for each in seen)


def test_machines_count_against_their_markets_quota_up_to_the_clusters_most() -> None:
    cpus = {"m6i.large": 2, "g6.xlarge": 4}
    every = machines.limits(cluster(text()), cpus)
    assert {(each.market, sum(each.machines)) for each in every} == {
        (machines.SPOT, 32),
        (machines.ON_DEMAND, 2),
        (machines.ON_DEMAND, 32),
    }
    few = machines.limits(cluster(text().replace("\nmax_workers: 8", "\nmax_workers: 3")), cpus)
    assert sum(sum(each.machines) for each in few) == 12 + 12 + 2


@pytest.mark.parametrize("vcpus", [0, 1, 4, 7, 8, 100])
def test_as_many_machines_fit_as_their_vcpus_allow(vcpus: int) -> None:
    limit = machines.Limit(machines.SPOT, "L", (4, 2, 1))
    count = limit.fit(vcpus)
    assert sum(sorted(limit.machines)[:count]) <= vcpus
    assert count == 3 or sum(sorted(limit.machines)[: count + 1]) > vcpus


def test_a_role_that_is_missing(image: str) -> None:
    check = worst(found("role", image, text().replace("paretune-worker", "nobody")))
    assert check.failed
    assert "no instance profile 'nobody'" in check.problem


def test_workers_without_a_role_cannot_reach_the_bucket(image: str) -> None:
    lines = [line for line in text().splitlines() if "paretune-worker" not in line]
    seen = found("role", image, "\n".join(lines))
    assert [each.failed for each in seen] == [True, True, False]
    assert "cannot reach the bucket" in seen[0].problem


def test_a_role_that_may_not(image: str) -> None:
    def simulate(ActionNames: list[str], PolicySourceArn: str, **_: Any) -> dict[str, Any]:
        no = {"s3:PutObject"} if PolicySourceArn.endswith("worker") else set()
        return {
            "EvaluationResults": [
                {"EvalActionName": n, "EvalDecision": "implicitDeny" if n in no else "allowed"}
                for n in ActionNames
            ]
        }

    seen = found("role", image, simulate_principal_policy=simulate)
    assert [each.failed for each in seen] == [False, True]
    assert "paretune-worker may not s3:PutObject" in seen[1].problem


def test_the_head_alone_is_asked_whether_it_may_launch_and_pass_the_workers_role(
    image: str,
) -> None:
    asked: list[tuple[str, str, list[str]]] = []

    def simulate(
        ActionNames: list[str], PolicySourceArn: str, ResourceArns: list[str], **_: Any
    ) -> dict[str, Any]:
        who = PolicySourceArn.rpartition("/")[2]
        asked.extend((who, name, ResourceArns) for name in ActionNames)
        return {"EvaluationResults": []}

    found("role", image, simulate_principal_policy=simulate)
    actions = {(who, name) for who, name, _ in asked}
    assert ("paretune-head", "ec2:RunInstances") in actions
    assert ("paretune-head", "ssm:GetParameters") in actions
    assert not any(who == "paretune-worker" and name.startswith("ec2") for who, name in actions)
    passed = next(arns for _, name, arns in asked if name == "iam:PassRole")
    assert [arn.rpartition("/")[2] for arn in passed] == ["paretune-worker"]
    puts = [arns for _, name, arns in asked if name == "s3:PutObject"]
    assert puts == [[f"arn:aws:s3:::{BUCKET}/*"]] * 2


def test_the_policies_that_the_readme_hands_out_allow_what_is_asked_for(image: str) -> None:
    """Actions and resources; conditions are for AWS to judge."""
    asked: list[tuple[str, str]] = []

    def simulate(ActionNames: list[str], PolicySourceArn: str, **_: Any) -> dict[str, Any]:
        who = PolicySourceArn.rpartition("-")[2]
        asked.extend((who, name) for name in ActionNames)
        return {"EvaluationResults": []}

    found("role", image, simulate_principal_policy=simulate)
    for who in ("head", "worker"):
        policy = json.loads(Path(f"clusters/aws/{who}.json").read_text())
        given: list[str] = []
        for statement in policy["Statement"]:
            actions = statement["Action"]
            given += [actions] if isinstance(actions, str) else actions
        wanted = {name for each, name in asked if each == who}
        assert wanted
        assert [n for n in wanted if not any(fnmatch(n, pattern) for pattern in given)] == []
        if who == "worker":
            assert all(action.startswith("s3:") for action in given)


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("s3://no-such-bucket/x", "there is no bucket 'no-such-bucket'"),
        ("s3://YOUR-BUCKET/x", "cannot be the name of a bucket"),
        ("./results", "share no disk"),
    ],
)
def test_a_storage_that_the_nodes_cannot_reach(image: str, storage: str, said: str) -> None:
    check = worst(found("bucket", image, text().replace(f"s3://{BUCKET}/studies", storage)))
    assert check.failed
    assert said in check.problem


def test_a_far_bucket_is_a_warning(image: str) -> None:
    far = {"BucketRegion": "eu-west-1"}
    check = worst(found("bucket", image, head_bucket=lambda **_: far))
    assert not check.failed
    assert "is in eu-west-1, the nodes in us-west-2" in check.problem


def test_a_key_pair_that_is_missing(image: str) -> None:
    check = worst(found("key pair", image, text().replace("KeyName: paretune", "KeyName: lost")))
    assert check.failed
    assert "--key-name lost" in check.mend


def test_nodes_without_a_key_name_cannot_be_entered(image: str) -> None:
    lines = [line for line in text().splitlines() if "KeyName" not in line]
    assert all(each.failed for each in found("key pair", image, "\n".join(lines)))


def test_a_private_key_that_others_can_read(image: str) -> None:
    key = Path("~/.ssh/paretune.pem").expanduser()
    key.chmod(0o644)
    try:
        assert "chmod 600" in worst(checks(image)).mend
    finally:
        key.chmod(0o600)


def test_an_account_that_never_used_spot(image: str) -> None:
    check = worst(found("spot role", image, get_role=refuses("NoSuchEntity")))
    assert check.failed
    assert "create-service-linked-role" in check.mend
    on_demand = text().replace("MarketType: spot", "MarketType: capacity-block")
    assert found("spot role", image, on_demand, get_role=refuses("NoSuchEntity")) == []


def test_who_gets_in_from_the_internet(image: str) -> None:
    import boto3

    ec2 = boto3.client("ec2", REGION)
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="wide", Description="wide", VpcId=vpc)["GroupId"]
    source = text().replace("GroupName: paretune", "GroupName: wide")
    check = worst(found("security group", image, source))  # Ray fills a group without rules
    assert not check.failed
    assert "open port 22 to the whole internet" in check.problem
    allow(group, 22, "0.0.0.0/0")
    check = worst(found("security group", image, source))
    assert not check.failed
    assert "port 22" in check.problem
    allow(group, 8265, "0.0.0.0/0")
    check = worst(found("security group", image, source))
    assert check.failed
    assert "8265" in check.problem


@pytest.mark.parametrize("name", [each.name for each in LOOKS])
def test_who_may_not_look_is_warned_and_told_what_is_missing(image: str, name: str) -> None:
    operations = {
        "instance types": "describe_instance_types",
        "zones": "describe_subnets",
        "image": "get_parameter",
        "quota": "get_service_quota",
        "role": "simulate_principal_policy",
        "bucket": "head_bucket",
        "key pair": "describe_key_pairs",
        "spot role": "get_role",
        "security group": "describe_security_groups",
    }
    (check,) = found(name, image, **{operations[name]: denies("a:Permission")})
    assert check.name == name
    assert check.warning
    assert "may not a:Permission" in check.mend


def test_a_denied_call_names_its_permission(image: str) -> None:
    from botocore.exceptions import ClientError

    class Client:
        def can_paginate(self, operation: str) -> bool:
            return False

        def get_service_quota(self, **_: Any) -> None:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetServiceQuota")

    account = Account(cluster(text()), {"service-quotas": Client()})
    with pytest.raises(NotAllowed, match="servicequotas:GetServiceQuota"):
        account.ask("service-quotas", "get_service_quota")


def test_what_takes_too_long_is_a_warning_and_holds_up_nothing() -> None:
    def slow(account: Account) -> Iterator[Check]:
        time.sleep(1.0)
        yield Check("", "late")

    def quick(account: Account) -> Iterator[Check]:
        yield Check("", "here")

    begin = time.monotonic()
    late, here = look(Account(cluster(text())), (Look("s", slow), Look("q", quick)), 0.1)
    assert time.monotonic() - begin < 0.9
    assert late.warning
    assert "no answer within 0.1 s" in late.problem
    assert here.found == "here"


@pytest.mark.parametrize(
    ("before", "after", "said", "failed"),
    [
        ("GPU: 1", "GPU: 0", "2 trials share a GPU, but no node type has one", True),
        ("cache_stopped_nodes: false", "cache_stopped_nodes: true", "stopped, not", False),
        ("min_workers: 0", "min_workers: 1", "would outlive a head", False),
        ("idle_minutes: 30", "idle_minutes: 5", "the head would end before its workers", True),
        ("InstanceInitiatedShutdownBehavior: terminate", "EbsOptimized: true", "is stopped", False),
    ],
)
def test_the_file_alone_shows_whether_the_cluster_ends(
    before: str, after: str, said: str, failed: bool
) -> None:
    assert not any(each.problem for each in of_file(cluster(text())))
    check = worst(list(of_file(cluster(text().replace(before, after)))))
    assert said in check.problem
    assert check.failed is failed
    assert check.mend


def test_an_idle_head_ends_itself() -> None:
    assert KINDS["aws"].idle_command(cluster(text())) == "sudo shutdown -h now"
