"""What Ray's ports say to somebody who has no token."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

# One harmless method of each of Ray's servers: the head's, the nodes' two, their agents', the
# workers' and, for ``ray://``, the clients'.
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetSystemConfig",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
PATHS = ("/", "/metrics", "/api/jobs/", "/api/job_agent/jobs/", "/get_or_create_runtime_env")


def over_http(address: str, port: int) -> set[int]:
    """Statuses of answers; none of a port that does not speak HTTP."""
    found = set()
    for path in PATHS:
        try:
            with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=5) as answer:
                found.add(answer.status)
        except urllib.error.HTTPError as refusal:
            found.add(refusal.code)
        except (OSError, http.client.HTTPException):
            return set()
    return found


def over_grpc(address: str, port: int) -> set[str]:
    """Names of the statuses of answers."""
    import grpc  # of the cluster extra: tests without it are collected, too

    found = set()
    with grpc.insecure_channel(f"{address}:{port}") as channel:
        for method in METHODS:
            try:
                channel.unary_unary(method)(b"", timeout=5)
                found.add("OK")
            except grpc.RpcError as refusal:
                found.add(refusal.code().name)
    return found


WAYS = (over_http, over_grpc)
