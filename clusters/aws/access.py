"""What lets people and nodes in: roles, the bucket, keys, the security group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from clusters.aws.account import Account, Answered
from clusters.aws.machines import RESOLVE, SPOT, market
from clusters.check import Check
from clusters.file import ClusterFile, NodeType

SPOT_ROLE = "AWSServiceRoleForEC2Spot"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OBJECTS = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject")
_LAUNCH = (
    "ec2:RunInstances",
    "ec2:TerminateInstances",
    "ec2:CreateTags",
    "ec2:DescribeInstances",
    "ec2:DescribeInstanceTypes",
)
_COMMANDS = "docs/on-aws.md has the commands"


def bucket_of(file: ClusterFile) -> str | None:
    """Of ``metadata.study.storage``, if that is in S3."""
    url = urlsplit(file.settings.storage or "")
    return url.netloc.rpartition("@")[2] if url.scheme == "s3" else None


def bucket(account: Account) -> Iterator[Check]:
    """Whether the storage is one that all nodes reach, exists, and is near."""
    file = account.file
    where, name = file.at("metadata", "study", "storage"), bucket_of(file)
    if name is None:
        if "://" in (file.settings.storage or ""):
            found = f"{urlsplit(file.settings.storage or '').scheme}: not S3, not looked at"
            yield Check("", found)
            return
        problem = f"{where}: nodes on AWS share no disk: {file.settings.storage!r}"
        yield Check("", problem=problem, mend="storage: s3://BUCKET/studies")
        return
    if not _BUCKET.fullmatch(name):
        problem = f"{where}: '{name}' cannot be the name of a bucket"
        yield Check("", problem=problem, mend="name yours")
        return
    try:
        said = account.ask("s3", "head_bucket", Bucket=name)
    except Answered as error:
        problem = f"{where}: there is no bucket '{name}'" if error.code == "404" else str(error)
        mend = f"aws s3 mb s3://{name} --region {account.region}"
        yield Check("", problem=problem, mend=mend)
        return
    headers = said.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = said.get("BucketRegion") or headers.get("x-amz-bucket-region", account.region)
    if region != account.region:
        problem = f"{where}: '{name}' is in {region}, the nodes in {account.region}"
        mend = "traffic between regions is slow and costs: a bucket in the nodes' region"
        yield Check("", problem=problem, mend=mend, warning=True)
    else:
        yield Check("", f"s3://{name}, {region}")


def roles(account: Account) -> Iterator[Check]:
    """Whether each node has a role, and each role may do what its nodes do."""
    needs_bucket = bucket_of(account.file) is not None
    found: dict[str, str] = {}
    heads: set[str] = set()
    workers: set[str] = set()
    for node in account.file.node_types():
        profile = _profile(node)
        if not profile:
            if node.is_head or needs_bucket:
                yield _without(account.file, node)
            continue
        (heads if node.is_head else workers).add(profile)
    for profile in sorted(heads | workers):
        role = _role(account, profile)
        if role is None:
            yield _missing(account, profile)
        else:
            found[profile] = role
    for profile, role in found.items():
        passed = [found[name] for name in sorted(workers & set(found))] if profile in heads else []
        yield _may(account, profile, role, passed, profile in heads)


def _profile(node: NodeType) -> str:
    said = node.config.get("IamInstanceProfile") or {}
    return str(said.get("Name") or str(said.get("Arn", "")).rpartition("/")[2])


def _without(file: ClusterFile, node: NodeType) -> Check:
    where = file.at("available_node_types", node.name, "node_config")
    if node.is_head:
        problem = f"{where}: no IamInstanceProfile: Ray gives the head all of EC2 and of S3"
        return Check("", problem=problem, mend=f"a role of its own; {_COMMANDS}", warning=True)
    problem = f"{where}: no IamInstanceProfile: its nodes cannot reach the bucket"
    return Check("", problem=problem, mend="IamInstanceProfile: {Name: paretune-worker}")


def _missing(account: Account, profile: str) -> Check:
    mend = f"aws iam create-instance-profile --instance-profile-name {profile}; {_COMMANDS}"
    problem = f"there is no instance profile '{profile}', or it has no role"
    return Check("", problem=problem, mend=mend)


def _role(account: Account, profile: str) -> str | None:
    try:
        said = account.ask("iam", "get_instance_profile", InstanceProfileName=profile)
    except Answered as error:
        if error.code == "NoSuchEntity":
            return None
        raise
    held = said["InstanceProfile"]["Roles"]
    return str(held[0]["Arn"]) if held else None


def _may(account: Account, profile: str, role: str, passed: list[str], head: bool) -> Check:
    wanted: dict[tuple[str, ...], list[str]] = {}
    bucket = bucket_of(account.file)
    if bucket:
        arn = f"arn:{role.split(':')[1]}:s3:::{bucket}"
        wanted |= {("s3:ListBucket",): [arn], _OBJECTS: [f"{arn}/*"]}
    if head:
        launch = [*_LAUNCH, *(["ssm:GetParameters"] if _resolves(account.file) else [])]
        wanted[tuple(launch)] = ["*"]
    if passed:
        wanted[("iam:PassRole",)] = passed
    denied = [
        f"{each['EvalActionName']} on {each.get('EvalResourceName', '*')}"
        for actions, resources in wanted.items()
        for each in _simulated(account, role, actions, resources)
        if each["EvalDecision"] != "allowed"
    ]
    if denied:
        problem = f"{profile} may not {', '.join(denied)}"
        return Check("", problem=problem, mend=f"put it into its policy; {_COMMANDS}")
    return Check("", f"{profile}: {role}")


def _simulated(
    account: Account, role: str, actions: tuple[str, ...], resources: list[str]
) -> list[Mapping[str, str]]:
    said = account.ask(
        "iam",
        "simulate_principal_policy",
        PolicySourceArn=role,
        ActionNames=list(actions),
        ResourceArns=resources,
        # A policy may ask to whom a role is passed, and whose instances are ended.
        ContextEntries=[
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in (
                ("iam:PassedToService", "ec2.amazonaws.com"),
                ("ec2:CreateAction", "RunInstances"),
                ("aws:ResourceTag/ray-cluster-name", account.file.name),
            )
        ],
    )
    return list(said["EvaluationResults"])


def _resolves(file: ClusterFile) -> bool:
    return any(str(n.config.get("ImageId", "")).startswith(RESOLVE) for n in file.node_types())


def key_pair(account: Account) -> Iterator[Check]:
    """Whether EC2 knows the key pairs that the nodes are to let in."""
    file = account.file
    if not file.auth.get("ssh_private_key"):
        yield Check("", "none named: Ray makes one, in ~/.ssh")
        return
    named = set()
    for node in file.node_types():
        key = node.config.get("KeyName")
        if key is None and "UserData" not in node.config:
            where = file.at("available_node_types", node.name, "node_config")
            problem = f"{where}: no KeyName, though auth names a private key"
            yield Check("", problem=problem, mend="KeyName: the key pair's name in EC2")
        elif key is not None:
            named.add(str(key))
    for key in sorted(named):
        try:
            account.ask("ec2", "describe_key_pairs", KeyNames=[key])
            yield Check("", key)
        except Answered as error:
            if error.code != "InvalidKeyPair.NotFound":
                raise
            mend = (
                f"aws ec2 create-key-pair --region {account.region} --key-name {key} --query "
                f"KeyMaterial --output text > ~/.ssh/{key}.pem && chmod 600 ~/.ssh/{key}.pem"
            )
            yield Check("", problem=f"{account.region} has no key pair '{key}'", mend=mend)


def spot_role(account: Account) -> Iterator[Check]:
    """Whether the account has the role without which nobody's spot requests are served."""
    if not any(market(node) == SPOT for node in account.file.node_types()):
        return
    try:
        account.ask("iam", "get_role", RoleName=SPOT_ROLE)
        yield Check("", SPOT_ROLE)
    except Answered as error:
        if error.code != "NoSuchEntity":
            raise
        mend = "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
        yield Check("", problem=f"the account has no {SPOT_ROLE}", mend=mend)


def security_group(account: Account) -> Iterator[Check]:
    """Whether only ssh gets in from outside, and who may try."""
    file = account.file
    group = (file.provider.get("security_group") or {}).get("GroupName")
    name = str(group or f"ray-autoscaler-{file.name}")
    ids = {i for node in file.node_types() for i in node.config.get("SecurityGroupIds") or []}
    by = {"group-id": sorted(ids)} if ids else {"group-name": [name]}
    filters = [{"Name": key, "Values": values} for key, values in by.items()]
    found = account.ask("ec2", "describe_security_groups", Filters=filters)["SecurityGroups"]
    narrow = f"let in your own address alone; {_COMMANDS}"
    if not any(each["IpPermissions"] for each in found):
        problem = f"Ray will make '{name}' and open port 22 to the whole internet"
        yield Check("", problem=problem, mend=narrow, warning=True)
    for each in found:
        ports = {_ports(rule) for rule in each["IpPermissions"] if _open(rule)}
        if ports - {"22"}:
            problem = f"'{each['GroupName']}' opens {', '.join(sorted(ports))} to the internet"
            yield Check("", problem=problem, mend=f"Ray's ports run code: {narrow}")
        elif ports:
            problem = f"'{each['GroupName']}' opens port 22 to the whole internet"
            yield Check("", problem=problem, mend=narrow, warning=True)
        elif each["IpPermissions"]:
            yield Check("", f"{each['GroupName']}: nothing is open to the whole internet")


def _open(rule: Mapping[str, list[dict[str, str]]]) -> bool:
    ranges = [each.get("CidrIp") for each in rule.get("IpRanges", [])]
    ranges += [each.get("CidrIpv6") for each in rule.get("Ipv6Ranges", [])]
    return "0.0.0.0/0" in ranges or "::/0" in ranges


def _ports(rule: Mapping[str, object]) -> str:
    first, last = rule.get("FromPort", -1), rule.get("ToPort", -1)
    if rule.get("IpProtocol") == "-1":
        return "every port"
    return str(first) if first == last else f"{first}-{last}"
