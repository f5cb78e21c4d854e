"""A job's words on the user's terminal, through lost connections, to its end."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from analysis.masking import printable
from clusters.cluster import Entrance
from clusters.errors import ClusterError
from clusters.jobs import Job
from study.errors import StudyError
from study.remote.order import say

_RECONNECT = 2.0
_LOST_SECONDS = 600.0  # a link may be cut for minutes
_CODE = re.compile(r"exit code (\d+)")


class Gone(StudyError):
    """There is no such cluster any more."""


def watch(enter: Callable[[], AbstractContextManager[Entrance]], job_id: str, hint: str) -> Job:
    """Show what a job writes until it ends; a lost connection is made again.

    Raises:
        Gone: the cluster ended.
        StudyError: it does not answer for ten minutes; the message ends with ``hint``.
    """
    seen, since, lost = 0, time.monotonic(), False

    def show(text: str) -> None:
        nonlocal seen, since
        seen, since = seen + len(text), time.monotonic()
        sys.stderr.write(printable(text))
        sys.stderr.flush()

    while True:
        try:
            with enter() as entrance:
                if lost:
                    say("connected again")
                lost = False
                if place := tracking(entrance, entrance.jobs.find(job_id)):
                    say(f"MLflow: {place}")
                entrance.jobs.follow(job_id, show, seen)
                job = entrance.jobs.find(job_id)
                if not job.active:
                    return job
        except Gone:
            raise
        except (ClusterError, StudyError, OSError) as error:
            if not lost:
                say(f"connection lost ({error}); the study goes on, trying again")
            lost = True
            if time.monotonic() - since > _LOST_SECONDS:
                raise StudyError(
                    f"the cluster has not answered for {_LOST_SECONDS / 60:.0f} minutes; {hint}"
                ) from error
        time.sleep(_RECONNECT)


def tracking(entrance: Entrance, job: Job) -> str:
    """Where a job's runs are seen from here."""
    if entrance.mlflow and job.tracking.startswith("http://127.0.0.1:"):
        return f"{entrance.mlflow} while this runs"
    return job.tracking


def exit_code(job: Job) -> int:
    """Of the command that a job ran; 1 where the job server does not tell."""
    known = {"SUCCEEDED": 0, "STOPPED": 128 + signal.SIGTERM}
    if job.status in known:
        return known[job.status]
    found = _CODE.search(job.message)
    return int(found[1]) if found else 1
