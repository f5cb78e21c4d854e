"""What a study and a cluster ask of each other, looked at before a launch."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from analysis.masking import masked
from clusters import package
from clusters.check import Check
from clusters.file import ClusterFile
from clusters.kinds.kind import Kind
from clusters.settings import Settings
from study.checks import name_problem
from study.config import StudyConfig
from study.deadlines import within
from study.remote.order import Order
from trainables.record import to_json

LOOK_SECONDS = 8.0
NOWHERE = "/nonexistent"  # no study is there
_TOLD = ("ray", "torch", "mlflow", "optuna")


def python_check(settings: Settings) -> Check:
    """Whether this machine has the Python that the nodes are to have: work travels between them."""
    here = ".".join(platform.python_version_tuple()[:2])
    if here == settings.python:
        return Check("python", platform.python_version())
    return Check(
        "python",
        problem=f"{here} here, {settings.python} on the nodes",
        mend=f'metadata.study: python: "{here}", or start this with Python {settings.python}',
    )


def packages_check(settings: Settings) -> Check:
    """What the nodes install: the versions of this machine, so far as they are here."""
    needed = package.requirements(settings.extras)
    loose = [each for each in needed if "==" not in each]
    if loose:
        extras = ",".join(settings.extras)
        problem = f"not installed here, so the nodes may get any version: {', '.join(loose)}"
        mend = f"pip install 'paretune[{extras}]'" if extras else "install them"
        return Check("packages", problem=problem, mend=mend, warning=True)
    told = [each for each in needed if each.partition("==")[0].partition("[")[0] in _TOLD]
    return Check("packages", f"{', '.join(told)} and {len(needed) - len(told)} more")


def storage(file: ClusterFile, order: Order | None = None) -> str | None:
    """Where a study on this cluster is to be; None is the head's own disk."""
    if order and "storage" in order.overrides:
        return str(json.loads(order.overrides["storage"]))
    if file.settings.storage is not None:
        return file.settings.storage
    return order.config.storage if order and "://" in order.config.storage else None


def storage_check(file: ClusterFile, order: Order | None = None) -> Check:
    """Whether the trials' machines have a place that all of them reach."""
    if (place := storage(file, order)) is not None:
        return Check("storage", masked(place))
    if not file.provider.get("worker_ips") and file.provider.get("type") == "local":
        return Check("storage", "the head's own disk: there are no workers")
    return Check(
        "storage",
        problem=f"{file.at('metadata', 'study', 'storage')} is missing: trials run on several "
        "machines, and all of them write there",
        mend="name an object store such as s3://BUCKET/studies, or a shared folder",
    )


def name_check(file: ClusterFile, order: Order) -> Check:
    """Whether a study of this name can begin, or go on, as far as this machine can see."""
    place = storage(file, order)
    seen = place if place and "://" in place else None
    where = "--resume" if order.resume else "--name"
    look = partial(name_problem, seen or NOWHERE, order.name, bool(seen) and order.resume)
    try:
        problem = within(LOOK_SECONDS, look)
    except TimeoutError as error:
        said = f"{masked(seen or '')}: {error}"
        return Check(
            "name", problem=f"not looked up: {said}", mend="credentials here", warning=True
        )
    if problem:
        return Check("name", problem=f"{where}: {problem}", mend="another --name")
    return Check("name", order.name)


def path_checks(order: Order) -> Iterator[Check]:
    """Files that only this machine has: what a study reads must be on its machines."""
    warm = order.warm_start
    if warm and "://" not in warm and Path(warm).exists():
        problem = f"--warm-start {warm} is a folder of this machine"
        yield Check("warm start", problem=problem, mend="copy the study into the storage")
    if found := local_paths(to_json(order.config.task)):
        problem = f"{', '.join(found)}: read on each machine of the cluster, and not shipped"
        mend = "the same path there, by file_mounts, an image or a shared folder"
        yield Check("data", problem=problem, mend=mend, warning=True)


def local_paths(settings: object) -> list[str]:
    """Files and folders of this machine that settings name."""
    return sorted({path for path in _paths(settings) if Path(path).exists()})


def _paths(value: object) -> Iterator[str]:
    if isinstance(value, str) and os.sep in value and "://" not in value:
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _paths(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths(each)


def gpu_check(file: ClusterFile, kind: Kind, config: StudyConfig) -> Check:
    """Whether a machine of the cluster has the GPUs that the study asks for."""
    wanted, most = config.resources.gpus, kind.gpus(file)
    if wanted == "auto" or not wanted or most is None:
        return Check("gpus", "as the machines have them")
    if most >= wanted:
        return Check("gpus", f"{wanted:g} for a trial, up to {most:g} in a machine")
    return Check(
        "gpus",
        problem=f"a trial is to get {wanted:g}, no node type of the cluster has as many",
        mend=f"change {config.where('resources')}: gpus, or the node types",
    )
