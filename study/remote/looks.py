"""What a study and a cluster ask of each other, looked at before a launch."""

from __future__ import annotations

from clusters.check import Check
from clusters.file import ClusterFile
from clusters.kinds.kind import Kind
from study.config import StudyConfig


def storage_check(file: ClusterFile) -> Check:
    """Whether the trials' machines have a place that all of them reach."""
    if file.settings.storage is not None:
        return Check("storage", file.settings.storage)
    if not file.provider.get("worker_ips") and file.provider.get("type") == "local":
        return Check("storage", "the head's own disk: there are no workers")
    return Check(
        "storage",
        problem=f"{file.at('metadata', 'study', 'storage')} is missing: trials run on several "
        "machines, and all of them write there",
        mend="name an object store such as s3://BUCKET/studies, or a shared folder",
    )


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
