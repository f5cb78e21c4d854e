"""Records what the search benchmark replays: every trial of a dense random design, by epoch.

    python tests/benchmarks/record_curves.py [STUDY ...] [--output FILE.parquet]

Without arguments it runs the studies of `curves_a.yaml` and `curves_b.yaml` (about an hour of two
cores) and writes `curves.parquet` beside this file; given finished studies, it writes theirs. A row
is a trial: its task, its flat suggestion as JSON, the validation metric and the seconds since its
start by epoch (epoch 0 is the set-up), log2 of the ratio, bytes of the file and of the adapter in
it, multiply-adds, and whether it failed. What a task's trials share (config, bytes of the dense
model, seconds that the machinery adds to a trial) is in the file's metadata. Printed is what was
found, a line a task.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from measured import command, run, table

from study import description
from study.config import StudyConfig, make_config
from study.events import SEARCH
from study.log import read
from study.state import StudyState, TrialState
from study.store.storage import Storage
from trainables.record import Report, Status

FOLDER = Path(__file__).parent
FILE = FOLDER / "curves.parquet"
DESIGNS = ("a", "b")
ASKED = ("plugins", "task", "name", "seed", "epochs", "recipe", "precision", "space")  # no paths
SCHEMA = pa.schema(
    {
        "task": pa.string(),
        "params": pa.string(),
        "metric": pa.list_(pa.float32()),
        "seconds": pa.list_(pa.float32()),
        "log2_ratio": pa.float64(),
        "file_bytes": pa.int64(),
        "adapter_bytes": pa.int64(),
        "macs": pa.int64(),
        "failed": pa.bool_(),
    }
)


@dataclass(frozen=True)
class Recorded:
    """The trials of one task, ``rows`` as the schema has them, and what they share.

    ``overhead`` are the seconds of a worker that a trial takes beside its own.
    """

    config: StudyConfig
    dense_bytes: int
    overhead: float
    rows: list[dict[str, Any]]


def load(task: str, file: Path = FILE) -> Recorded:
    """The recorded trials of task a or b.

    Raises:
        KeyError: the file holds no such task.
    """
    found = pq.read_table(file)
    shared = json.loads(found.schema.metadata[task.encode()])
    rows = [row for row in found.to_pylist() if row["task"] == task]
    for row in rows:
        row["params"] = json.loads(row["params"])
    return Recorded(
        make_config(shared["config"], str(FOLDER / "config")),
        shared["dense_bytes"],
        shared["overhead"],
        rows,
    )


def write(studies: Mapping[str, Path], file: Path = FILE) -> list[list[str]]:
    """Write the file from studies by task; a line a task, as :func:`measured.table` has them."""
    rows: list[dict[str, Any]] = []
    metadata: dict[str, str] = {}
    said = [["task", "trials", "without adapter", "failed", "epochs", "overhead, s"]]
    for task, folder in studies.items():
        storage = Storage.open(str(folder))
        config = json.loads(storage.read_text(description.FILE))["config"]
        trials = trials_of(StudyState(read(storage)))
        own = list(recorded(task, make_config(config, str(FOLDER / "config")).task.metric, trials))
        outcomes = [trial.record.outcome for trial in trials if trial.record]
        metadata[task] = json.dumps(
            {
                "config": {key: config[key] for key in ASKED},
                "dense_bytes": next(o.size.dense_model.total for o in outcomes if o.size),
                "overhead": overhead(trials),
            }
        )
        rows += own
        bare = sum(trial.params["adapter"] == "none" for trial in trials)
        failed = sum(row["failed"] for row in own)
        numbers = [len(own), bare, failed, config["epochs"], f"{overhead(trials):.3f}"]
        said.append([task, *map(str, numbers)])
    found = pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata))
    pq.write_table(found, file, compression="zstd", compression_level=19)
    return said


def trials_of(state: StudyState) -> list[TrialState]:
    """The search's own trials that came to something: a curve of one report at least."""
    found = [t for t in state.searched if t.role == SEARCH and t.reports]
    return [t for t in found if t.ended_at is not None]


def recorded(task: str, metric: str, trials: Iterable[TrialState]) -> Iterator[dict[str, Any]]:
    """The rows of one task."""
    for trial in trials:
        outcome = trial.record.outcome if trial.record else None
        if outcome is None:
            continue
        # Failed ones have no curve in their record; their reports are in the log.
        reports: list[Report] = list(trial.reports)
        yield {
            "task": task,
            "params": json.dumps(dict(trial.params), sort_keys=True),
            "metric": [report.metrics[metric] for report in reports],
            "seconds": [report.seconds for report in reports],
            "log2_ratio": outcome.size.log2_ratio if outcome.size else None,
            "file_bytes": outcome.size.file_bytes if outcome.size else None,
            "adapter_bytes": outcome.size.model.adapter if outcome.size else None,
            "macs": outcome.macs,
            "failed": outcome.status is Status.FAILED,
        }


def overhead(trials: Iterable[TrialState]) -> float:
    """Seconds of a worker's time per trial that are none of the trial's own, on average.

    At least 0: calibration is charged to each trial that stands on it, though done once for all.
    """
    begun, ended, own = [], [], []
    for trial in trials:
        if trial.record and trial.started_at and trial.ended_at:
            begun.append(trial.started_at)
            ended.append(trial.ended_at)
            own.append(trial.record.outcome.seconds or trial.reports[-1].seconds)
    changes = sorted([(at, 1) for at in begun] + [(at, -1) for at in ended])
    workers = max(accumulate(change for _, change in changes))
    return max(0.0, (workers * (max(ended) - min(begun)) - sum(own)) / len(own))


def run_designs(folder: Path) -> dict[str, Path]:
    """Run both studies; their folders by task."""
    found = {}
    for task in DESIGNS:
        config = str(FOLDER / f"curves_{task}.yaml")
        store = ["--tracking-uri", f"sqlite:///{folder}/mlflow.db", "--quiet"]
        run(command("study.run", "--config", config, "--name", task, *store), folder)
        found[task] = folder / "results" / task
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", type=Path, help="finished ones: task a, then b")
    parser.add_argument("--output", type=Path, default=FILE, help="default: beside this script")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        studies = dict(zip(DESIGNS, given.studies, strict=False)) or run_designs(Path(folder))
        print(table(write(studies, given.output)))
    print(f"{given.output}: {given.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
