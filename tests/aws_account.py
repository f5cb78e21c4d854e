"""An account of moto's in which everything that clusters/aws.yaml needs is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clusters.aws.access import SPOT_ROLE
from clusters.aws.account import Account
from clusters.file import ClusterFile, parse
from study.fields import yaml_lines

REGION = "us-west-2"
SOURCE = Path("clusters/aws.yaml")
BUCKET = "a-bucket"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",  # no question leaves this machine
}
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


def text() -> str:
    """Our file, with a bucket."""
    return SOURCE.read_text().replace("YOUR-BUCKET", BUCKET)


def cluster(text: str) -> ClusterFile:
    """As the command reads it."""
    return parse(yaml_lines.load(text, "aws.yaml"))


def furnish(home: Path) -> str:
    """Roles, bucket, key, group, image; the image's id."""
    import boto3

    ec2, iam = boto3.client("ec2", REGION), boto3.client("iam", REGION)
    boto3.client("s3", REGION).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    for name in ("paretune-head", "paretune-worker"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(_TRUST))
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    iam.create_role(
        RoleName=SPOT_ROLE,
        Path="/aws-service-role/spot.amazonaws.com/",
        AssumeRolePolicyDocument=json.dumps(_TRUST),
    )
    key = ec2.create_key_pair(KeyName="paretune")["KeyMaterial"]
    (home / ".ssh").mkdir(exist_ok=True)
    path = home / ".ssh" / "paretune.pem"
    path.write_text(key)
    path.chmod(0o600)
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]
    group = ec2.create_security_group(
        GroupName="paretune", Description="narrow", VpcId=vpc["VpcId"]
    )["GroupId"]
    allow(group, 22, "203.0.113.7/32")
    intel = [{"Name": "name", "Values": ["ubuntu/images/*"]}]
    return str(ec2.describe_images(Filters=intel)["Images"][0]["ImageId"])


def allow(group: str, port: int, addresses: str) -> None:
    """Let them in."""
    import boto3

    rule = {
        "IpProtocol": "tcp",
        "FromPort": port,
        "ToPort": port,
        "IpRanges": [{"CidrIp": addresses}],
    }
    boto3.client("ec2", REGION).authorize_security_group_ingress(
        GroupId=group, IpPermissions=[rule]
    )


Answer = Callable[..., dict[str, Any]]


def answers(image: str) -> dict[str, Answer]:
    """What moto has no answer to: quota, the simulation of policies, AWS's own parameters."""
    return {
        "get_service_quota": lambda **_: {"Quota": {"Value": 64.0}},
        "simulate_principal_policy": lambda ActionNames, **_: {
            "EvaluationResults": [
                {"EvalActionName": name, "EvalDecision": "allowed"} for name in ActionNames
            ]
        },
        "get_parameter": lambda **_: {"Parameter": {"Value": image}},
    }


@contextmanager
def answering(patch: Any, given: dict[str, Answer]) -> Iterator[None]:
    """Questions that ``given`` names have its answers; the others are moto's."""
    real = Account.ask

    def ask(self: Account, service: str, operation: str, **words: Any) -> dict[str, Any]:
        if operation in given:
            return given[operation](**words)
        return real(self, service, operation, **words)

    with patch.context() as inner:
        inner.setattr(Account, "ask", ask)
        yield
