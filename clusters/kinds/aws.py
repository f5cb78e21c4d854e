"""Amazon's cloud: Ray's ``aws`` provider. Nothing here changes an account."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from clusters import fallback
from clusters.aws import access, identity, machines
from clusters.aws.account import SECONDS, Account, Look, look
from clusters.check import Check
from clusters.fallback import SCORER
from clusters.file import ClusterFile
from clusters.kinds.kind import Kind
from clusters.ssh import key_check

_FALLBACK = "paretune_fallback"
# As boto3 spells an answer; the words may go on with a code of 1,000 letters.
_REFUSED = re.compile(
    r"error occurred \((\w+)\) when calling the (\w+) operation(?: \([^)]*\))?: (.{1,200})"
)
_LAUNCHED = "Launched a new head node"  # whatever was refused before, another zone had it
LOOKS = (
    Look("instance types", machines.kinds),
    Look("zones", machines.zones),
    Look("image", machines.images),
    Look("quota", machines.quota),
    Look("role", access.roles),
    Look("bucket", access.bucket),
    Look("key pair", access.key_pair),
    Look("spot role", access.spot_role),
    Look("security group", access.security_group),
)


class Aws(Kind):
    """Instances of EC2, storage in S3."""

    name = "aws"

    def checks(self, file: ClusterFile) -> Iterator[Check]:
        """What the file says by itself, then who asks, then everything else at once."""
        end = time.monotonic() + SECONDS
        yield from of_file(file)
        yield key_check(file)
        first = identity.package()
        yield first
        if first.failed:
            return
        where = identity.region(file)
        yield where
        if where.failed:
            return
        account = Account(file)
        who = list(identity.credentials(account))
        yield from who
        if not any(each.failed for each in who):
            yield from look(account, LOOKS, end - time.monotonic())

    def environment(self) -> Mapping[str, str]:
        """The first autoscaler, taught to fall back from spot; the second cannot be."""
        return {
            "RAY_enable_autoscaler_v2": "0",
            # The autoscaler runs before a study brings this package to the head.
            "PYTHONPATH": "$HOME/.paretune",
            SCORER: f"{_FALLBACK}.{fallback.score.__name__}",
        }

    def files(self) -> Mapping[str, str]:
        """What that variable names."""
        return {f"{_FALLBACK}.py": Path(fallback.__file__).read_text()}

    def refusal(self, said: str) -> str | None:
        """In AWS's own words; Ray prints pages around them, and of expired credentials no word."""
        if any(code in said for code in identity.EXPIRED):
            return f"your credentials have expired; {identity.LOGIN}"
        if _LAUNCHED in said or not (refused := _REFUSED.findall(said)):
            return None
        code, operation, words = refused[-1]
        return f"AWS refuses {operation}: {words} ({code})"

    def idle_command(self, file: ClusterFile) -> str:
        """The head ends itself; its workers ended before, for want of work."""
        return "sudo shutdown -h now"


def of_file(file: ClusterFile) -> Iterator[Check]:
    """What can be seen without AWS: does the cluster end, and has it the GPUs it is to share."""
    yield _cards(file)
    yield _stopped(file)
    yield from _left_over(file)
    yield _shutdown(file)


def _cards(file: ClusterFile) -> Check:
    workers = [node for node in file.node_types() if not node.is_head]
    shared = file.settings.trials_per_gpu
    if shared > 1 and not any(node.gpus is None or node.gpus for node in workers):
        where = file.at("metadata", "study", "trials_per_gpu")
        problem = f"{where}: {shared} trials share a GPU, but no node type has one"
        return Check("GPUs", problem=problem, mend="a node type with resources: {GPU: 1}")
    counts = ", ".join(f"{n.name} {'?' if n.gpus is None else f'{n.gpus:g}'}" for n in workers)
    return Check("GPUs", counts or "no workers")


def _stopped(file: ClusterFile) -> Check:
    if file.provider.get("cache_stopped_nodes", True):
        where = file.at("provider", "cache_stopped_nodes")
        problem = f"{where}: nodes are stopped, not terminated, and their disks go on costing"
        return Check("end", problem=problem, mend="cache_stopped_nodes: false", warning=True)
    return Check("end", "nodes are terminated, not stopped")


def _left_over(file: ClusterFile) -> Iterator[Check]:
    for node in file.node_types():
        if node.least and not node.is_head:
            where = file.at("available_node_types", node.name, "min_workers")
            problem = f"{where}: {node.least} workers would outlive a head that ends itself"
            mend = "min_workers: 0; or end the cluster yourself with --down"
            yield Check("dead-man switch", problem=problem, mend=mend, warning=True)
    timeout = float(file.data.get("idle_timeout_minutes", 5))
    if file.settings.idle_minutes <= timeout:
        where = file.at("metadata", "study", "idle_minutes")
        problem = f"{where}: the head would end before its workers, idle after {timeout:g} minutes"
        mend = f"idle_minutes: {timeout + 10:g}"
        yield Check("dead-man switch", problem=problem, mend=mend)


def _shutdown(file: ClusterFile) -> Check:
    name = "dead-man switch"
    for node in file.node_types():
        ends = node.config.get("InstanceInitiatedShutdownBehavior")
        if node.is_head and ends != "terminate" and file.settings.idle_command is None:
            where = file.at("available_node_types", node.name, "node_config")
            problem = f"{where}: a head that shuts down is stopped, and its disk goes on costing"
            mend = "InstanceInitiatedShutdownBehavior: terminate"
            return Check(name, problem=problem, mend=mend, warning=True)
    return Check(name, f"a head without a study for {file.settings.idle_minutes:g} minutes ends")
