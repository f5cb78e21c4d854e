"""The machines that a cluster file asks for: types, zones, images, quota."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clusters.aws.account import Account, Answered
from clusters.check import Check
from clusters.file import ClusterFile, NodeType

RESOLVE = "resolve:ssm:"
SPOT, ON_DEMAND = "spot", "on demand"
# Service Quotas' codes of EC2's limits of running vCPUs, by market and first letter of the type.
_STANDARD = "ACDHIMRTZ"
_CODES = {
    **{(ON_DEMAND, letter): "L-1216C47A" for letter in _STANDARD},
    **{(SPOT, letter): "L-34B43A08" for letter in _STANDARD},
    **{(ON_DEMAND, letter): "L-DB2E81BA" for letter in "GV"},
    **{(SPOT, letter): "L-3819A6DF" for letter in "GV"},
    (ON_DEMAND, "P"): "L-417A185B",
    (SPOT, "P"): "L-7212CCBC",
}


@dataclass(frozen=True)
class Limit:
    """A quota, and the vCPUs of each machine that may run under it at once, greatest first."""

    market: str
    code: str
    machines: tuple[int, ...]

    def fit(self, vcpus: float) -> int:
        """How many of the machines do."""
        count = 0
        for each in sorted(self.machines):
            vcpus -= each
            count += vcpus >= 0
        return count


def market(node: NodeType) -> str:
    """How it is bought."""
    options = node.config.get("InstanceMarketOptions") or {}
    return SPOT if options.get("MarketType") == SPOT else ON_DEMAND


def kinds(account: Account) -> Iterator[Check]:
    """Whether the region has the instance types, with the GPUs that the file gives them."""
    for node in account.file.node_types():
        where = account.file.at("available_node_types", node.name, "node_config", "InstanceType")
        named = str(node.config.get("InstanceType"))
        said = account.types.get(named)
        if said is None:
            problem = f"{where}: {account.region} has no {named}"
            mend = f"aws ec2 describe-instance-type-offerings --region {account.region}"
            yield Check("", problem=problem, mend=mend)
            continue
        has, declared = gpus(said), node.gpus
        if declared is not None and declared != has:
            problem = f"{where}: {named} has {has} GPUs, resources say {declared:g}"
            yield Check("", problem=problem, mend=f"resources: {{GPU: {has}}}")
        else:
            yield Check("", f"{node.name}: {named}, {vcpus(said)} vCPU, {has} GPU")


def zones(account: Account) -> Iterator[Check]:
    """Whether the types are offered in the zones whose subnets Ray would use."""
    file = account.file
    public = not file.provider.get("use_internal_ips", False)
    named = file.provider.get("availability_zone")
    wanted = {zone.strip() for zone in str(named).split(",")} if named else None
    usable = {
        each["AvailabilityZone"]
        for each in account.ask("ec2", "describe_subnets")["Subnets"]
        if each["State"] == "available" and (each["MapPublicIpOnLaunch"] or not public)
    }
    usable = usable if wanted is None else usable & wanted
    if not usable:
        where = file.at("provider", "availability_zone")
        problem = f"{where}: no subnet there that gives its nodes public addresses"
        mend = f"aws ec2 create-default-vpc --region {account.region}, or name SubnetIds"
        yield Check("", problem=problem, mend=mend)
        return
    filters = [{"Name": "instance-type", "Values": sorted(account.types)}]
    offered = defaultdict(set)
    for each in account.ask(
        "ec2",
        "describe_instance_type_offerings",
        LocationType="availability-zone",
        Filters=filters,
    )["InstanceTypeOfferings"]:
        offered[each["InstanceType"]].add(each["Location"])
    for named in sorted(account.types):
        found = sorted(offered[named] & usable)
        if found:
            yield Check("", f"{named} in {', '.join(found)}")
        else:
            elsewhere = ", ".join(sorted(offered[named])) or "no zone"
            problem = f"{named} is not offered in {', '.join(sorted(usable))}"
            yield Check("", problem=problem, mend=f"{account.region} has it in {elsewhere}")


def images(account: Account) -> Iterator[Check]:
    """Whether the images exist, are ready, and fit the machines and their disks."""
    seen = set()
    for node in account.file.node_types():
        named = str(node.config.get("ImageId", ""))
        key = (named, node.config.get("InstanceType"), str(node.config.get("BlockDeviceMappings")))
        if key not in seen:
            seen.add(key)
            yield _image(account, node, named)


def _image(account: Account, node: NodeType, named: str) -> Check:
    where = account.file.at("available_node_types", node.name, "node_config", "ImageId")
    if named.lower() in ("", "latest_dlami"):
        mend = "name one, as clusters/aws.yaml does"
        return Check(
            "", problem=f"{where}: Ray's own default is Ubuntu 18.04: too old for torch", mend=mend
        )
    try:
        image = _described(account, named)
    except Answered as error:
        return Check("", problem=f"{where}: {error}", mend=_list_images(account))
    if image is None:
        problem = f"{where}: {account.region} has no image {named}; ids differ by region"
        return Check("", problem=problem, mend=_list_images(account))
    problem = _unfit(image, account.types.get(str(node.config.get("InstanceType"))), node)
    if problem:
        return Check("", problem=f"{where}: {problem}", mend=_list_images(account))
    return Check("", f"{node.name}: {image['ImageId']}, {image.get('Name', '')}")


def _described(account: Account, named: str) -> dict[str, Any] | None:
    if named.startswith(RESOLVE):
        said = account.ask("ssm", "get_parameter", Name=named.removeprefix(RESOLVE))
        named = str(said["Parameter"]["Value"])
    found = account.ask("ec2", "describe_images", ImageIds=[named])["Images"]
    return dict(found[0]) if found else None


def _unfit(image: dict[str, Any], kind: Any, node: NodeType) -> str:
    ours = image.get("Architecture")
    if image.get("State") != "available":
        return f"{image['ImageId']} is {image.get('State')}, not available"
    if kind and ours not in kind["ProcessorInfo"]["SupportedArchitectures"]:
        return f"{image['ImageId']} is for {ours}, {kind['InstanceType']} is not"
    root = image.get("RootDeviceName")
    least = next(
        (
            each["Ebs"].get("VolumeSize", 0)
            for each in image.get("BlockDeviceMappings", [])
            if each.get("DeviceName") == root and "Ebs" in each
        ),
        0,
    )
    for disk in node.config.get("BlockDeviceMappings") or []:
        size = (disk.get("Ebs") or {}).get("VolumeSize")
        if disk.get("DeviceName") == root and size is not None and size < least:
            return f"{image['ImageId']} needs {least} GB, VolumeSize is {size}"
    return ""


def _list_images(account: Account) -> str:
    return (
        f"aws ssm get-parameters-by-path --region {account.region} --recursive "
        "--path /aws/service/deeplearning/ami lists Deep Learning images"
    )


def quota(account: Account) -> Iterator[Check]:
    """Whether EC2's limits of running vCPUs let the machines run: one of each, and all."""
    for limit in limits(account.file, {n: vcpus(t) for n, t in account.types.items()}):
        allowed = _allowed(account, limit.code)
        fit, most = limit.fit(allowed), len(limit.machines)
        said = f"{limit.market}, {limit.code}: {allowed:g} vCPU, {fit} of {most} machines"
        mend = (
            f"aws service-quotas request-service-quota-increase --region {account.region} "
            f"--service-code ec2 --quota-code {limit.code} --desired-value {sum(limit.machines)}"
        )
        if fit == most:
            yield Check("", said)
        else:
            yield Check("", problem=f"only {said}", mend=mend, warning=fit > 0)


def limits(file: ClusterFile, cpus: dict[str, int]) -> list[Limit]:
    """The quotas that a file's machines count against; at most ``max_workers`` workers in all."""
    everywhere = int(file.data.get("max_workers", 2))
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    heads: dict[tuple[str, str], list[int]] = defaultdict(list)
    for node in file.node_types():
        kind = str(node.config.get("InstanceType"))
        code = _CODES.get((market(node), kind[:1].upper()))
        if code is None or kind not in cpus:
            continue
        key = (market(node), code)
        if node.is_head:
            heads[key].append(cpus[kind])
        groups[key] += [cpus[kind]] * min(node.most, everywhere)
    most = {key: sorted(found, reverse=True)[:everywhere] for key, found in groups.items()}
    return [
        Limit(*key, tuple(sorted(most[key] + heads[key], reverse=True)))
        for key in sorted(most)
        if most[key] + heads[key]
    ]


def _allowed(account: Account, code: str) -> float:
    words = {"ServiceCode": "ec2", "QuotaCode": code}
    try:
        found = account.ask("service-quotas", "get_service_quota", **words)
    except Answered as error:
        if error.code != "NoSuchResourceException":
            raise
        found = account.ask("service-quotas", "get_aws_default_service_quota", **words)
    return float(found["Quota"]["Value"])


def gpus(said: Any) -> int:
    """Of an instance type, as EC2 describes it."""
    return sum(each.get("Count", 0) for each in (said.get("GpuInfo") or {}).get("Gpus", []))


def vcpus(said: Any) -> int:
    """Of an instance type, as EC2 describes it."""
    return int(said["VCpuInfo"]["DefaultVCpus"])
