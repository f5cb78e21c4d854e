"""Studies as jobs of a Ray cluster: they live on without the terminal that asked for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters.errors import ClusterError
from clusters.token import headers

LABEL, TRACKING = "paretune", "tracking"  # in a job's metadata: the study's name, its MLflow
STOP_SECONDS = 300  # a study that is told to end stores all it knows; Ray's own word is 3 s
ACTIVE = ("PENDING", "RUNNING")
_RETRY = 1.0


@dataclass(frozen=True)
class Job:
    """A study's run on a cluster; ``began`` and ``ended`` in ms since 1970."""

    id: str
    study: str
    status: str = "PENDING"
    message: str = ""
    began: int | None = None
    ended: int | None = None
    tracking: str = ""

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.status in ACTIVE


class Jobs:
    """The job server of a cluster, through a tunnel to ``port`` of this machine."""

    def __init__(self, port: int, token: Path) -> None:
        """Ask who is there.

        Raises:
            ClusterError: nobody answers, or not to this token.
        """
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self._client = JobSubmissionClient(f"http://127.0.0.1:{port}", headers=headers(token))
        except Exception as error:  # Ray raises what its libraries do
            raise ClusterError(
                f"the cluster's job server does not answer: {_short(error)}"
            ) from error

    def all(self) -> list[Job]:
        """The studies' jobs, the newest last."""
        found = _asked(self._client.list_jobs)
        jobs = [_job(info) for info in found if LABEL in (info.metadata or {})]
        return sorted(jobs, key=lambda job: job.began or 0)

    def find(self, job_id: str) -> Job:
        """One job as it is now."""
        return _job(_asked(lambda: self._client.get_job_info(job_id)))

    def submit(self, job: Job, command: str, folder: Path, environment: Mapping[str, str]) -> None:
        """Start a command on the head, in a copy of ``folder`` that workers get as well."""
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **environment}

        def ask() -> None:
            try:
                self._client.submit_job(
                    entrypoint=command,
                    submission_id=job.id,
                    metadata={LABEL: job.study, TRACKING: job.tracking},
                    runtime_env={"working_dir": str(folder), "env_vars": variables},
                )
            except RuntimeError as error:
                # The answer to an earlier try was lost: the id is ours alone.
                if "already exists" not in str(error):
                    raise

        _asked(ask)

    def stop(self, job_id: str) -> None:
        """Ask a job to end: it gets SIGTERM, and :data:`STOP_SECONDS` to come to an end."""
        _asked(lambda: self._client.stop_job(job_id))

    def follow(self, job_id: str, show: Callable[[str], None], seen: int = 0) -> None:
        """Show what a job writes, from its ``seen``-th character on, until it ended.

        Raises:
            ClusterError: the connection broke; what was shown stays shown.
        """

        async def copy() -> None:
            at = 0
            async for text in self._tail(job_id):
                if at + len(text) > seen:
                    show(text[max(0, seen - at) :])
                at += len(text)

        try:
            asyncio.run(copy())
        except Exception as error:  # of Ray, of aiohttp, of the system: there is no common one
            raise ClusterError(_short(error)) from error

    def _tail(self, job_id: str) -> AsyncIterator[str]:
        return self._client.tail_job_logs(job_id)


def _job(info: Any) -> Job:
    return Job(
        info.submission_id,
        (info.metadata or {}).get(LABEL, ""),
        str(getattr(info.status, "value", info.status)),
        info.message or "",
        info.start_time,
        info.end_time,
        (info.metadata or {}).get(TRACKING, ""),
    )


def _asked(call: Callable[[], Any], patience: float = 10.0) -> Any:
    """Ask; a server that is busy starting the first job is asked again."""
    end = time.monotonic() + patience
    while True:
        try:
            return call()
        except Exception as error:  # Ray raises RuntimeError for all, its libraries their own
            if time.monotonic() > end:
                raise ClusterError(f"the cluster's job server: {_short(error)}") from error
        time.sleep(_RETRY)


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
