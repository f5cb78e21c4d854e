"""The machines that a cluster has, and may yet have, as its head knows them."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from compression.registry import InvalidSetting
from study.fields.sections import Resources
from study.loop.placement import Node
from study.store.storage import Storage, StorageError

# Ray's launcher leaves the cluster's file here, with what the provider knows of its machines.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
BACK_SECONDS = 60.0
JOIN_SECONDS = 900.0  # packages take minutes to install on a new machine
LOOK_SECONDS = 1.0
_ERROR = re.compile(r"error|exception|capacity|fail", re.IGNORECASE)
_LOG = Path("/tmp/ray/session_latest/logs/monitor.out")


def launched(path: Path = BOOTSTRAP) -> dict[str, Any]:
    """The launcher's configuration on the head; empty on a cluster that it did not start."""
    try:
        found = yaml.safe_load(path.expanduser().read_text())
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}


def promised(config: Mapping[str, Any], living: int = 0) -> list[Node]:
    """Machines that the autoscaler would start beyond the ``living`` workers: the largest first."""
    nodes, head = list[Node](), config.get("head_node_type")
    for name, given in (config.get("available_node_types") or {}).items():
        has = given.get("resources") or {}
        if name != head and has.get("CPU"):
            memory = has.get("memory", float("inf"))
            node = Node(has["CPU"], has.get("GPU", 0.0), memory)
            nodes += [node] * int(given.get("max_workers", 0))
    nodes.sort(key=lambda node: (node.gpus, node.cpus), reverse=True)
    most = min(int(config.get("max_workers", len(nodes))), len(nodes))
    return nodes[: max(0, most - living)]


def due(config: Mapping[str, Any]) -> int:
    """How many machines are to be there from the beginning, the head among them."""
    types = (config.get("available_node_types") or {}).values()
    return 1 + sum(int(given.get("min_workers", 0)) for given in types)


def patience(path: Path = BOOTSTRAP) -> float:
    """Seconds to wait for machines: less where the cluster is older than they take to come."""
    try:
        age = time.time() - path.expanduser().stat().st_mtime
    except OSError:
        return BACK_SECONDS
    return max(BACK_SECONDS, JOIN_SECONDS - age)


def wait(
    count: int, alive: Callable[[], int], say: Callable[[str], None], seconds: float = JOIN_SECONDS
) -> None:
    """Return when so many machines are there, or when it was long enough: others may come later.

    Raises:
        InvalidSetting: one cannot join, with the cause.
    """
    end, told = time.monotonic() + seconds, -1
    while (found := alive()) < count:
        if found != told:
            say(f"{found} of {count} machines are there")
            told = found
        if said := failure():
            raise InvalidSetting([f"cluster: {said}"])
        if time.monotonic() > end:
            say(f"{found} of {count} machines after {seconds:.0f} s: on with these (see {_LOG})")
            return
        time.sleep(LOOK_SECONDS)


def await_first(
    nodes: Sequence[Node], wanted: Resources, alive: Callable[[], int], say: Callable[[str], None]
) -> None:
    """Have a cluster without workers start its first one, and wait for it: it may never come.

    Raises:
        InvalidSetting: it did not, with the cause as far as the autoscaler knows it.
    """
    from ray.autoscaler.sdk import request_resources

    before, end = alive(), time.monotonic() + JOIN_SECONDS
    gpus = max(node.gpus for node in nodes)
    share = min(1.0, gpus) if wanted.gpus == "auto" else float(wanted.gpus)
    say("asking for a first machine; those of a cloud take minutes")
    request_resources(bundles=[{"CPU": wanted.cpus} | ({"GPU": share} if share else {})])
    try:
        while alive() <= before:
            if said := failure():
                raise InvalidSetting([f"cluster: {said}"])
            if time.monotonic() > end:
                text = f"no machine came within {JOIN_SECONDS / 60:.0f} minutes"
                raise InvalidSetting([f"cluster: {text}{_last_error()} (all of it: {_LOG})"])
            time.sleep(LOOK_SECONDS)
    finally:
        request_resources(bundles=[])


def _last_error(log: Path = _LOG) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    found = [line.strip() for line in lines if _ERROR.search(line)]
    return f": {found[-1][:300]}" if found else ""


def failure(log: Path = _LOG) -> str | None:
    """What a worker's setup said was wrong with it, by what the launcher wrote down."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return None
    ours = [line.partition("paretune: ")[2].strip() for line in lines if "paretune: " in line]
    return ours[-1] if ours else None


def blind(storage: Storage) -> Iterator[str]:
    """Addresses of machines that do not see what the head writes to the storage, and why.

    Each reads a file of the head's with its own rights, and writes one.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    name = f".seen-{uuid.uuid4().hex[:8]}"
    storage.write_text(name, name)
    try:
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if not node["Alive"]:
                continue
            task: Any = ray.remote(num_cpus=0, max_retries=0)(_look)
            here = task.options(scheduling_strategy=On(node["NodeID"], soft=False))
            if problem := ray.get(here.remote(storage.uri, name)):
                yield f"{node['NodeManagerAddress']}: {problem}"
    finally:
        storage.delete(name)


def _look(uri: str, name: str) -> str:
    try:
        storage = Storage.open(uri)
        if not storage.exists(name):
            return f"{storage} there is not the head's"
        storage.check_writable()
    except StorageError as error:
        return str(error)
    return ""
