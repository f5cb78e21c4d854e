"""What the head is told of a study that it is to run: a small file in the job's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clusters import derived

FILE, CONFIG = "job.json", "study.yaml"
ANSWER = "answer.json"  # of a study that ended, beside its files: what `--json` says
RESULTS = f"{derived.THERE}/results"  # on the head: from where the user's machine takes them
COMMAND = "python -m study.remote.job"


@dataclass(frozen=True)
class Spec:
    """A study's name, how it begins, and the command line's values by dotted config key."""

    name: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    resume: bool = False
    warm_start: str | None = None

    def write(self, folder: Path) -> None:
        """Put it into a job's folder."""
        (folder / FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Spec:
        """As it was written."""
        return cls(**json.loads((folder / FILE).read_text()))
