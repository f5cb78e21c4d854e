"""What a study's records share, as ``study.json`` says it, and which study is the same study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from study.config import StudyConfig
from study.constraints import Demands
from study.objectives import Aim, aims, final
from study.origin import versions
from study.space.defaults import defaults
from study.state import StudyState
from study.store import sealed
from study.store.files import FILE
from study.store.storage import Storage
from study.warm_start import WarmStart
from trainables.record import SCHEMA, Record, to_json
from trainables.serial import digest
from trainables.tasks import Prepared


def values(aims: Sequence[Aim], record: Record) -> list[float] | None:
    """A record's values of these objectives; None where one was not measured."""
    losses = final(aims, record.outcome)
    if losses is None:
        return None
    return [aim.objective.value(loss) for aim, loss in zip(aims, losses, strict=True)]


def identity(config: StudyConfig, data: Prepared) -> dict[str, Any]:
    """Space, seed, weights and data. Budgets that only end it are not: it can be extended."""
    return {**asked(config), "fingerprint": to_json(data.fingerprint)}


def asked(config: StudyConfig) -> dict[str, Any]:
    """The part of an identity that the config tells.

    With an allocation also that: its trials are the first ones, and a log has them already.
    """
    found: dict[str, Any] = {"space": config.search_space().to_json(), "seed": config.seed}
    if (allocate := config.space.allocate) is not None:
        size = {"max_bytes": allocate.max_bytes, "target_ratio": allocate.target_ratio}
        by = [[one.name, dict(one.args())] for one in allocate.by]
        found["allocate"] = {**size, "by": by, "refine": allocate.refine}
    return found


def identity_hash(identity: Mapping[str, Any]) -> str:
    """16 hex digits of an identity."""
    return digest([json.dumps(identity, sort_keys=True)])


def stored_identity(storage: Storage) -> dict[str, Any] | None:
    """The identity of the study that stands in the folder; None if nothing says it.

    Raises:
        StudyError: ``study.json`` is damaged.
    """
    return (stored(storage) or {}).get("identity")


def stored(storage: Storage) -> dict[str, Any] | None:
    """What ``study.json`` says; None without such a file.

    Raises:
        StudyError: it is damaged.
    """
    return sealed.read(storage, FILE, "delete it: the log has it all, --resume writes it anew")


def describe(
    config: StudyConfig,
    name: str,
    data: Prepared,
    state: StudyState,
    test_reads: Sequence[Mapping[str, Any]],
    warm: WarmStart | None = None,
) -> dict[str, Any]:
    """The content of ``study.json``."""
    goals = [aim.objective for aim in aims(config.task, config.objectives)]
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
        "defaults": defaults(),
        "objectives": [
            {"name": o.name, "direction": o.direction.value, "unit": o.unit} for o in goals
        ],
        "constraints": list(config.constraints),
        "shortfall": Demands.of(config.task, config.constraints, state).shortfall(state),
        "reference": {goals[0].name: config.task.chance, goals[1].name: 0.0},
        "fingerprint": to_json(data.fingerprint),
        "splits": {
            "train": {"n": len(data.train)},
            "validation": {"n": len(data.validation)},
            "calibration": {"n": 0 if data.calibration is None else len(data.calibration)},
        },
        "baselines": roles,
        "versions": versions(),
        "plugins": config.plugin_hashes(),
        "front": [] if state.frozen is None else to_json(state.frozen.members),
        "counts": state.counts(),
        "warm_start": warm and warm.to_json(),
        "spent_seconds": round(state.spent_seconds, 1),
        "test_reads": list(test_reads),
    }


def write(storage: Storage, description: Mapping[str, Any]) -> None:
    """Write ``study.json`` anew."""
    sealed.write(storage, FILE, description)
