"""Studies with what charts read: inits, learning curves, seconds, several seeds, a searcher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import synthetic_study as synthetic

from analysis.columns import front
from analysis.load import Row, StudyData
from trainables.record import Choice, Record, Report, Status

INITS = ("zeros", "residual", "pissa")
SEEDS = (1, 2, 3)


def charted(trials: int = 80, seed: int = 0, searcher: Any = "random", **info: Any) -> StudyData:
    """Trials of four methods and three inits, each with its curve; no seed but the study's."""
    rng = np.random.default_rng(seed)
    made = [_told(synthetic.search_row(n, rng), rng) for n in range(trials)]
    return StudyData(
        "charted",
        {**synthetic.info("charted"), "config": {"searcher": searcher}, **info},
        (*synthetic.baselines(), *made),
    )


def _told(row: Row, rng: np.random.Generator) -> Row:
    """The trial with the study's seed, an init, seconds and a curve that ends at its value."""
    trial, outcome = replace(row.record.trial, seed=0), row.record.outcome
    # No two settings are the same: of one seed a study runs each once.
    rule = trial.layers[0]
    rule = replace(rule, methods=(Choice(rule.methods[0].name, {"offset": row.number}),))
    if trial.epochs:
        rule = replace(rule, init=Choice(str(rng.choice(INITS))))
    trial = replace(trial, layers=(rule,))
    outcome = replace(outcome, seconds=float(rng.uniform(0.5, 4)))
    if outcome.metrics:
        value = outcome.metrics["val"]["accuracy"]
        steps = range(outcome.epochs_done + 1)
        curve = [Report(e, {"accuracy": value * (1 - 0.5 ** (e + 1))}) for e in steps][:-1]
        last = Report(outcome.epochs_done, {"accuracy": value})
        outcome = replace(outcome, curve=(*curve, last))
    return replace(row, record=replace(row.record, trial=trial, outcome=outcome))


def again(study: StudyData, seeds: tuple[int, ...] = SEEDS, noise: float = 0.01) -> StudyData:
    """The study whose front was run again with these seeds."""
    rng, rows = np.random.default_rng(9), []
    for row in front(study.rows):
        if row.record.trial.epochs:
            rows += [_run(row, seed, float(rng.normal(0, noise))) for seed in seeds]
    return replace(study, rows=(*study.rows, *rows))


def _run(row: Row, seed: int, change: float) -> Row:
    outcome = row.record.outcome
    value = min(outcome.metrics["val"]["accuracy"] + change, 1.0)
    trial = replace(row.record.trial, seed=seed)
    outcome = replace(outcome, metrics={"val": {"accuracy": value}})
    return Row(Record(trial, outcome, row.record.origin), "confirm", row.number)


def of_status(study: StudyData, *kept: Status) -> StudyData:
    """The study of those of its trials that ended so; baselines stay."""
    rows = [r for r in study.rows if r.role != "search" or r.record.outcome.status in kept]
    return replace(study, rows=tuple(rows))


def without_recovery(study: StudyData) -> StudyData:
    """The study of those of its trials that trained nothing."""
    rows = [r for r in study.rows if r.role != "search" or not r.record.trial.epochs]
    return replace(study, rows=tuple(rows))
