"""What a study's records share, as ``study.json`` says it, and which study is the same study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from study.config import StudyConfig
from study.origin import versions
from study.state import StudyState
from study.storage import Storage
from trainables.record import SCHEMA, Direction, Objective, Record, to_json
from trainables.serial import digest
from trainables.tasks import Prepared

FILE = "study.json"


def objectives(config: StudyConfig) -> tuple[Objective, Objective]:
    """What the search trades: the task's primary metric on validation, log2 of the ratio."""
    return (
        replace(config.task.objective, name=f"val_{config.task.metric}"),
        Objective("log2_ratio", Direction.MAXIMIZE, "doublings"),
    )


def values(config: StudyConfig, record: Record) -> list[float]:
    """A completed record's values of :func:`objectives`."""
    size = record.outcome.size
    if size is None:
        raise ValueError(f"{record.trial_id} has no size")
    return [record.outcome.metrics["val"][config.task.metric], size.log2_ratio]


def identity(config: StudyConfig, data: Prepared) -> dict[str, Any]:
    """Space, seed, weights and data. Budgets are not in it: a study can be extended."""
    return {
        "space": config.search_space().to_json(),
        "seed": config.seed,
        "fingerprint": to_json(data.fingerprint),
    }


def identity_hash(identity: Mapping[str, Any]) -> str:
    """16 hex digits of an identity."""
    return digest([json.dumps(identity, sort_keys=True)])


def stored_identity(storage: Storage) -> dict[str, Any] | None:
    """The identity of the study that stands in the folder."""
    if not storage.exists(FILE):
        return None
    found: dict[str, Any] = json.loads(storage.read_text(FILE)).get("identity")
    return found


def describe(
    config: StudyConfig,
    name: str,
    data: Prepared,
    state: StudyState,
    test_reads: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of ``study.json``."""
    metric, ratio = objectives(config)
    roles = {t.role: t.trial_id for t in state.trials.values() if t.number < 0}
    return {
        "schema": SCHEMA,
        "name": name,
        "identity": identity(config, data),
        "config": config.to_json(),
        "seed": config.seed,
        "task": config.task.name,
        "subject": to_json(config.task.subject),
        "space": config.search_space().to_json(),
        "objectives": [
            {"name": o.name, "direction": o.direction.value, "unit": o.unit}
            for o in (metric, ratio)
        ],
        "reference": {metric.name: config.task.chance, ratio.name: 0.0},
        "fingerprint": to_json(data.fingerprint),
        "splits": {
            "train": {"n": len(data.train)},
            "validation": {"n": len(data.validation)},
            "calibration": {"n": 0 if data.calibration is None else len(data.calibration)},
        },
        "baselines": roles,
        "versions": versions(),
        "plugins": config.plugin_hashes(),
        "counts": state.counts(),
        "spent_seconds": round(state.spent_seconds, 1),
        "test_reads": list(test_reads),
    }


def write(storage: Storage, description: Mapping[str, Any]) -> None:
    """Write ``study.json`` anew."""
    storage.write_text(FILE, json.dumps(description, indent=1, sort_keys=False) + "\n")
