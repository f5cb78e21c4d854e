"""Score chosen points on test, each loaded from its file in a fresh process.

``python -m study.verify`` reads a :class:`Job` as JSON from standard input and prints one JSON line
a :class:`~trainables.record.Verification`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from clusters.connection import limits
from study.errors import StudyError
from study.origin import now
from study.plugins import PluginFile, load_entry_points
from study.state import StudyState
from study.store.files import artifact, probe
from study.store.storage import Storage
from trainables.record import Choice, Record, Verification, from_json, to_json


class VerificationError(StudyError):
    """The verifying process failed as a whole; the message holds what it said last."""


@dataclass(frozen=True)
class Job:
    """What to verify. ``baselines`` are trial ids by role, ``plugins`` sources by file name."""

    storage: str
    task: Choice
    seed: int
    threads: int
    records: tuple[Record, ...]
    baselines: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, str] = field(default_factory=dict)


def unverified(state: StudyState) -> tuple[dict[str, str], list[str]]:
    """Baselines' trial ids by role, and all ids of baselines and of the front without a score.

    Of a point of the front these are all its runs, one a seed.
    """
    baselines = {t.role: t.trial_id for t in state.ended if t.number < 0 and state.has_file(t)}
    members = state.frozen.members if state.frozen else ()
    runs = [i for member in members for i in (member.trial_id, *member.replicates)]
    wanted = dict.fromkeys([*baselines.values(), *runs])
    return baselines, [i for i in wanted if i not in state.verifications]


def verify(job: Job, seconds: float = 3600.0) -> list[Verification]:
    """Run the job in a fresh process, for at most so many ``seconds`` a point.

    Raises:
        VerificationError: the process failed, or took longer. A point that disagrees with its
            record is no error: its Verification has problems.
    """
    most = seconds * max(1, len(job.records))
    try:
        run = subprocess.run(
            [sys.executable, "-m", "study.verify"],
            input=json.dumps(to_json(job)),
            capture_output=True,
            text=True,
            timeout=most,
            env={**os.environ, **limits(job.threads)},
            start_new_session=True,  # Ctrl-C is for the study, which waits till test was read
        )
    except subprocess.TimeoutExpired:
        raise VerificationError(
            f"the verifying process took more than {most:.0f} s for {len(job.records)} points; "
            "--resume tries again, and resources.cpus gives it more threads"
        ) from None
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        raise VerificationError(f"the verifying process failed: {last}")
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    return [from_json(Verification, json.loads(line)) for line in lines]


def _work(job: Job) -> Iterator[Verification]:
    from trainables.build import resolve_task
    from trainables.examine import Examiner
    from trainables.hardware.allocator import keep_freed_memory
    from trainables.hardware.devices import limit_threads

    limit_threads(job.threads)
    keep_freed_memory()
    load_entry_points()
    for name, source in job.plugins.items():
        PluginFile(name, source).load()
    task = resolve_task(job.task)
    examiner = Examiner(task, task.prepare(job.seed), task.test(job.seed))
    storage = Storage.open(job.storage)
    # Baselines first: the others are compared with them, example by example.
    roles = set(job.baselines.values())
    for record in sorted(job.records, key=lambda r: r.trial_id not in roles):
        file = storage.read_bytes(artifact(record.trial_id))
        logits = storage.read_bytes(probe(record.trial_id))
        yield examiner.examine(record, file, logits, job.baselines, now())


def main() -> None:
    """See the module."""
    job = from_json(Job, json.loads(sys.stdin.read()))
    for verification in _work(job):
        print(json.dumps(to_json(verification)), flush=True)


if __name__ == "__main__":
    main()
