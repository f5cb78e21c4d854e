"""Studies made of synthetic records, for the tests of analysis/."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from analysis.load import Row, StudyData
from trainables.record import (
    NONE,
    Bounds,
    Choice,
    Drop,
    Fingerprint,
    LayerRule,
    Objective,
    Origin,
    Outcome,
    Paired,
    Parts,
    Record,
    Size,
    Status,
    Trial,
    Verification,
    canonical,
    to_json,
)

N_VAL, N_TEST = 359, 719
DENSE = Parts(base=30_000, untouched=1_800, header=900)
ORIGIN = Origin(
    Fingerprint("w" * 16, "d" * 16), commit="0" * 40, versions={"torch": "2.15.0", "ray": "2.60.0"}
)
BITS = {"int1": 1.1, "rtn": 3.2, "block_sparse": 6.0, "svd": 8.0}


def trial(method: Choice, adapter: str = "lora", rank: int = 2, lr: float = 0.01, **more: Any):
    """A uniform trial; without training where there is no adapter."""
    if adapter == "none":
        return Trial(Choice("digits"), (LayerRule((method,)),), Choice("recover"), **more)
    rule = LayerRule((method,), Choice("residual"), Choice(adapter), rank)
    return Trial(
        Choice("digits"),
        (rule,),
        optimizer=Choice("adam"),
        lr=lr,
        batch_size=32,
        epochs=12,
        **more,
    )


def size(bits: float, rank: int = 0) -> Size:
    """Bytes of a model with this many bits a weight."""
    parts = Parts(int(30_000 * bits / 32), 300, 0, 200 * rank, 1_800, 1_400)
    targets = replace(parts, header=0, untouched=0)
    return Size(
        parts if bits < 32 else DENSE,
        targets,
        DENSE,
        Parts(base=30_000),
        int(240_000 * bits / 32),
        240_000,
    )


def record(asked: Trial, sized: Size, accuracy: float, **more: Any) -> Record:
    """A finished trial."""
    values: dict[str, Any] = {
        "status": Status.COMPLETED,
        "epochs_done": asked.epochs,
        "metrics": {"val": {"accuracy": round(accuracy * N_VAL) / N_VAL}},
        "size": sized,
        "macs": 100_000,
        "seconds": 1.2,
        "sha256": hashlib.sha256(canonical(asked).encode()).hexdigest(),
    } | more
    return Record(asked, Outcome(**values), ORIGIN)


def verification(of: Record, drop: int, disagree: int = 8, **more: Any) -> Verification:
    """A test score ``drop`` examples below dense."""
    only_reference = max(drop + disagree, 0)
    outcome = of.outcome
    values: dict[str, Any] = {
        "metrics": {"accuracy": (706 - drop) / N_TEST},
        "paired": {
            "dense": Paired(N_TEST, only_reference, only_reference - drop),
            "dense_recovered": Paired(N_TEST, only_reference + 1, only_reference - drop),
        },
    } | more
    assert outcome.sha256
    assert outcome.size
    return Verification(of.trial_id, outcome.sha256, outcome.size.file_bytes, **values)


def info(name: str = "synthetic") -> dict[str, Any]:
    """Content of a study.json."""
    return {
        "schema": 1,
        "name": name,
        "seed": 0,
        "identity": "f" * 16,
        "objectives": [
            {"name": "val_accuracy", "direction": "maximize"},
            {"name": "log2_ratio", "direction": "maximize"},
        ],
        "reference": {"val_accuracy": 0.1, "log2_ratio": 0.0},
        "splits": {
            "train": {"n": 719, "hash": "a" * 16},
            "val": {"n": N_VAL, "hash": "b" * 16},
            "test": {"n": N_TEST, "hash": "c" * 16},
        },
        "versions": {"paretune": "0.1.0", "torch": "2.15.0"},
        "test_reads": [{"at": "2026-01-01", "study": "synthetic", "points": 12}],
        "counts": {"answered": 3},
    }


def baselines() -> list[Row]:
    """The four that every study runs first."""
    made = [
        ("dense", trial(NONE, "none"), size(32), 0.983),
        ("dense_recovered", trial(NONE, "lora", 8), size(34), 0.986),
        ("fp16", trial(Choice("cast"), "none"), size(16), 0.983),
        ("int8", trial(Choice("rtn", {"bits": 8}), "none"), size(8), 0.981),
    ]
    return [Row(record(t, s, a), role, -4 + i) for i, (role, t, s, a) in enumerate(made)]


def search_row(number: int, rng: np.random.Generator) -> Row:
    """A trial whose accuracy falls with its compression, with noise."""
    method = str(rng.choice(list(BITS)))
    rank = int(rng.choice([0, 1, 2, 4, 8]))
    bits = BITS[method] * float(rng.uniform(0.8, 2.2))
    asked = trial(Choice(method), "lora" if rank else "none", rank, 10 ** rng.uniform(-4, -1))
    asked = replace(asked, seed=number)
    if rng.random() < 0.05:
        return Row(
            Record(asked, Outcome(Status.FAILED, error="step 31: loss is nan"), ORIGIN),
            number=number,
        )
    quality = bits * (1 + 0.3 * rank) * float(rng.uniform(0.35, 1))
    accuracy = 0.985 - 0.55 * float(np.exp(-0.9 * quality)) - abs(float(rng.normal(0, 0.004)))
    stopped = rank > 0 and rng.random() < 0.3
    more = {"status": Status.STOPPED, "epochs_done": 4} if stopped else {}
    return Row(record(asked, size(bits, rank), accuracy - 0.04 * stopped, **more), number=number)


def study(trials: int = 60, seed: int = 0) -> StudyData:
    """A realistic study whose front and baselines are verified."""
    from analysis.columns import front

    rng = np.random.default_rng(seed)
    rows = baselines() + [search_row(i, rng) for i in range(trials)]
    chosen = front(rows) + rows[:4]
    checks = {}
    for row in chosen:
        lost = 0.983 - row.record.outcome.metrics["val"]["accuracy"]
        drop = round(N_TEST * lost * 1.1 + float(rng.normal(0, 1)))
        is_dense = row.role == "dense"
        checks[row.record.trial_id] = verification(
            row.record, 0 if is_dense else drop, 0 if is_dense else 3
        )
    return StudyData("synthetic", info(), tuple(rows), checks)


def turned(data: StudyData, objective: Objective, of: Callable[[float], float]) -> StudyData:
    """The same study with another primary metric, a function of the accuracy."""

    def row(old: Row) -> Row:
        outcome = old.record.outcome
        metrics = {
            split: {objective.name: of(found["accuracy"])}
            for split, found in outcome.metrics.items()
        }
        return replace(old, record=replace(old.record, outcome=replace(outcome, metrics=metrics)))

    def check(old: Verification) -> Verification:
        accuracy = old.metrics["accuracy"]
        drops = {
            role: _drop(objective, of(accuracy + pair.drop), of(accuracy))
            for role, pair in old.paired.items()
        }
        return replace(old, metrics={objective.name: of(accuracy)}, paired={}, drops=drops)

    name = f"val_{objective.name}"
    stated = {"name": name, "direction": objective.direction.value, "unit": objective.unit}
    info = {**data.info, "objectives": [stated, data.info["objectives"][1]]}
    checks = {key: check(found) for key, found in data.verifications.items()}
    return replace(data, info=info, rows=tuple(map(row, data.rows)), verifications=checks)


def _drop(objective: Objective, reference: float, value: float) -> Drop:
    worse, half = objective.loss(value) - objective.loss(reference), abs(reference) * 0.004
    absolute = Bounds(worse, worse - half, worse + half)
    share = [v / abs(reference) for v in (worse, worse - half, worse + half)]
    relative = None if objective.is_fraction else Bounds(*share)
    return Drop(objective.name, N_TEST, absolute, relative, "paired bootstrap")


def write(folder: Path, data: StudyData) -> Path:
    """A study's files as the driver leaves them."""
    (folder / "records").mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({**data.info}))
    rows = [
        {
            "number": row.number,
            "role": row.role,
            "trial_id": row.record.trial_id,
            "record_json": canonical(row.record),
        }
        for row in data.rows
    ]
    checks = [
        {"trial_id": v.trial_id, "verification_json": json.dumps(to_json(v))}
        for v in data.verifications.values()
    ]
    names = ["number", "role", "trial_id", "record_json"]
    types = [pa.int64(), pa.string(), pa.string(), pa.string()]
    schema = pa.schema(list(zip(names, types, strict=True)))
    parquet.write_table(
        pa.Table.from_pylist(rows, schema=schema), folder / "records/records.parquet"
    )
    schema = pa.schema([("trial_id", pa.string()), ("verification_json", pa.string())])
    parquet.write_table(
        pa.Table.from_pylist(checks, schema=schema), folder / "records/verifications.parquet"
    )
    return folder
