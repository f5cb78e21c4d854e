"""PC-LoRA beside truncated and whitened SVD of the same bytes, the same training and epochs.

    python tests/benchmarks/progressive_gain.py [--task digits] [--first 0] [--seeds 5]
                    [--rates a,b | --rates-of FILE] [--schedule constant] [--arms a,b] [--ranks a,b]
                    [--workers 2] [--output FILE]

Every arm ends with the same tensors, factors A and B of one rank in each layer and a bias c: they
differ in where these start and in what they learn from. `pc` fades the base out (recipe
`progressive`, as published: linear, 80% of the steps), `svd` starts at the truncated SVD and
`whitened` at the activation-aware one (method `drop_base`, inits `residual` and `eora`, recipe
`recover`); `+kd` learns 80% from the dense model's features. Others try PC-LoRA's open knobs.

For each seed, which varies split, dense training and recovery, each arm runs once with every
learning rate; validation chooses the rate, and that file is scored on test. With --rates-of each
arm has the rate that the seed of another run chose. Printed are the test
metric over the seeds, and the differences to each SVD arm, paired by seed, with 95% t-intervals.
With --output, what is there already is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

from measured import keep, machine, table

from analysis.stats import mean_interval

TASKS: dict[str, dict[str, Any]] = {
    "digits": {
        "task": ["digits", {}],
        "ranks": [2, 4, 6],
        "rates": [1e-3, 3e-3, 1e-2, 3e-2],
        "epochs": 40,
        "batch": 32,
    },
    "reviews": {
        "task": [
            "product_reviews",
            {
                "layers": "bert.encoder.layer.[45].*, bert.pooler.dense",
                "train_on": 1500,
                "limit": 5000,
                "epochs": 2,
            },
        ],
        "ranks": [32],
        "rates": [1e-3],
        "epochs": 2,
        "batch": 16,
    },
}
KD = {"task_weight": 0.2}
ALONE = {"task_weight": 1.0}
ARMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pc": ("zeros", "progressive", ALONE),
    "pc+kd": ("zeros", "progressive", KD),
    "svd": ("residual", "recover", {}),
    "svd+kd": ("residual", "recover", KD),
    "whitened": ("eora", "recover", {}),
    "whitened+kd": ("eora", "recover", KD),
}
OPEN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pc cosine": ("zeros", "progressive", {**ALONE, "decay": "cosine"}),
    "pc sine": ("zeros", "progressive", {**ALONE, "decay": "sine"}),
    "pc q=0.5": ("zeros", "progressive", {**ALONE, "end": 0.5}),
    "pc from svd": ("residual", "progressive", ALONE),
    "pc from whitened": ("eora", "progressive", ALONE),
    "pc from svd q=0.3": ("residual", "progressive", {**ALONE, "end": 0.3}),
    "pc+kd cosine": ("zeros", "progressive", {**KD, "decay": "cosine"}),
    "pc+kd sine": ("zeros", "progressive", {**KD, "decay": "sine"}),
    "pc+kd q=0.5": ("zeros", "progressive", {**KD, "end": 0.5}),
    "pc+kd alpha=0.5": ("zeros", "progressive", {"task_weight": 0.5}),
    "pc+kd relative": ("zeros", "progressive", {**KD, "relative": True}),
    "pc+kd layer": ("zeros", "progressive", {**KD, "teacher": "layer"}),
    "pc+kd from svd": ("residual", "progressive", KD),
    "pc+kd from whitened": ("eora", "progressive", KD),
    "pc+kd relative from whitened": ("eora", "progressive", {**KD, "relative": True}),
    "svd+kd relative": ("residual", "recover", {**KD, "relative": True}),
    "whitened+kd relative": ("eora", "recover", {**KD, "relative": True}),
}
RIVALS = ("svd", "svd+kd", "whitened", "whitened+kd")


class Files:
    """A folder as a shelf."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_bytes(self, name: str, data: bytes) -> None:
        """See trainables.shelf.Shelf."""
        (self.folder / name).write_bytes(data)


@cache
def prepared(name: str, seed: int) -> Any:
    """Task, data and test split: once a process."""
    import torch

    from trainables.calibration import calibrated
    from trainables.tasks import TASKS as REGISTRY

    torch.set_num_threads(1)
    kind, args = TASKS[name]["task"]
    task = REGISTRY.build(kind, args)
    return task, calibrated(task.prepare(seed), 256, seed)


def trial(schedule: str, name: str, arm: str, rank: int, rate: float, seed: int) -> Any:
    """What is asked for."""
    from trainables.record import Choice, LayerRule, Trial

    init, recipe, args = {**ARMS, **OPEN}[arm]
    own = TASKS[name]
    rule = LayerRule((Choice("drop_base"),), Choice(init), Choice("lora"), rank)
    return Trial(
        Choice(*own["task"]),
        (rule,),
        recipe=Choice(recipe, args),
        optimizer=Choice("adam"),
        lr_schedule=Choice(schedule),
        lr=rate,
        batch_size=own["batch"],
        epochs=own["epochs"],
        seed=seed,
    )


def trained(folder: str, job: tuple[str, str, str, int, float, int]) -> dict[str, Any]:
    """One trial: what validation says of the epoch that it kept."""
    from trainables.attempt import Attempt

    _, name, arm, rank, rate, seed = job
    task, data = prepared(name, seed)
    begun = time.perf_counter()
    attempt = Attempt(task, data, trial(*job), Files(Path(folder)))
    while not attempt.finished:
        attempt.advance()
    done = attempt.outcome
    found = {"arm": arm, "rank": rank, "rate": rate, "seed": seed, "id": attempt.trial_id}
    found |= {"seconds": time.perf_counter() - begun, "status": done.status.value}
    if done.size is None:
        return found | {"error": done.error}
    metric = done.metrics["val"][task.metric]
    return found | {"validation": metric, "bytes": done.size.file_bytes, "best": done.best_epoch}


def tested(name: str, folder: str, trial_id: str, seed: int) -> float:
    """The test metric of a file."""
    from compression.artifact import load
    from trainables.features import features_of
    from trainables.tasks.base import observe

    task, data = prepared(name, seed)
    model = load(f"{folder}/{trial_id}.safetensors", task.architecture())
    forward, split = features_of(task, data.model, model, task.test(seed))
    return float(task.score(observe(task, forward, split), split.labels)[task.metric])


Rates = dict[tuple[str, int], list[float]]


def cell(
    name: str, folder: str, rates: Rates, schedule: str, key: tuple[str, int, int]
) -> dict[str, Any]:
    """An arm at a rank and seed: all rates, of which validation chooses one for test."""
    arm, rank, seed = key
    runs = [trained(folder, (schedule, name, arm, rank, rate, seed)) for rate in rates[arm, rank]]
    scored = [run for run in runs if "validation" in run]
    best = max(scored, key=lambda run: run["validation"], default=None)
    found = {"arm": arm, "rank": rank, "seed": seed, "runs": runs}
    if best is None:
        return found
    return found | {"chosen": best, "test": tested(name, folder, best["id"], seed)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, default in {"first": 0, "seeds": 5, "workers": 2}.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--ranks", help="ranks, instead of the task's own")
    parser.add_argument("--arms", default=",".join({**ARMS, **OPEN}), help="which of them")
    parser.add_argument("--rates", help="learning rates, instead of the task's own")
    parser.add_argument("--rates-of", type=Path, help="an --output of another seed")
    parser.add_argument("--schedule", default="constant", help="of the learning rate")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    given = parser.parse_args()
    own = TASKS[given.task]
    arms = given.arms.split(",")
    ranks = [int(rank) for rank in given.ranks.split(",")] if given.ranks else own["ranks"]
    rates = rates_of(given, list(itertools.product(arms, ranks)))
    seeds = range(given.first, given.first + given.seeds)
    done = json.loads(given.output.read_text()) if given.output and given.output.exists() else {}
    cells: dict[str, Any] = done.get("cells", {})
    asked = {"task": given.task, "schedule": given.schedule}
    if others := {key: done[key] for key in asked if key in done and done[key] != asked[key]}:
        parser.error(f"{given.output} is of {others}; name another file")
    keys = itertools.product(seeds, ranks, arms)
    left = [(a, r, s) for s, r, a in keys if known(cells, (a, r, s), rates) is None]
    found = {
        "machine": machine(),
        "task": given.task,
        "schedule": given.schedule,
        "cells": cells,
    }
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(given.workers, mp_context=spawn) as pool,
    ):
        for one in pool.map(partial(cell, given.task, folder, rates, given.schedule), left):
            cells[f"{one['arm']}|{one['rank']}|{one['seed']}"] = one
            shown = one.get("chosen", {})
            print(f"{one['arm']}, rank {one['rank']}, seed {one['seed']}: test "
                  f"{one.get('test')}, {shown.get('rate')}", flush=True)  # fmt: skip
            keep(given.output, found)
    print("\n" + table(summary(list(cells.values()))))


def rates_of(given: argparse.Namespace, keys: list[tuple[str, int]]) -> Rates:
    """What each arm and rank tries."""
    if given.rates_of:
        cells = json.loads(given.rates_of.read_text())["cells"].values()
        return {(c["arm"], c["rank"]): [c["chosen"]["rate"]] for c in cells if "chosen" in c}
    texts = given.rates.split(",") if given.rates else TASKS[given.task]["rates"]
    return dict.fromkeys(keys, [float(text) for text in texts])


def known(cells: dict[str, Any], key: tuple[str, int, int], rates: Rates) -> Any:
    """What was measured already, with the same learning rates."""
    found = cells.get("|".join(map(str, key)))
    tried = [run["rate"] for run in found["runs"]] if found else []
    return found if tried == rates[key[:2]] else None


def summary(cells: list[dict[str, Any]]) -> list[list[str]]:
    """A row an arm and rank: test over the seeds, and what it is above each SVD arm."""
    tests = {(c["arm"], c["rank"], c["seed"]): c["test"] for c in cells if "test" in c}
    rows = [["arm", "rank", "bytes", "test, mean", *(f"less {rival}" for rival in RIVALS)]]
    for arm, rank in dict.fromkeys((c["arm"], c["rank"]) for c in cells):
        mine = {s: value for (a, r, s), value in tests.items() if (a, r) == (arm, rank)}
        sizes = {c["chosen"]["bytes"] for c in cells
                 if (c["arm"], c["rank"]) == (arm, rank) and "chosen" in c}  # fmt: skip
        row = [arm, str(rank), "/".join(map(str, sorted(sizes)))]
        row.append(f"{100 * statistics.mean(mine.values()):.2f}" if mine else "failed")
        for rival in RIVALS:
            gaps = [100 * (v - tests[rival, rank, s]) for s, v in mine.items()
                    if (rival, rank, s) in tests]  # fmt: skip
            row.append("" if rival == arm else interval(gaps))
        rows.append(row)
    return rows


def interval(values: list[float]) -> str:
    """Mean and 95% t-interval over seeds, in points."""
    found = mean_interval(values) if len(values) > 1 else None
    if found is None:
        return f"{values[0]:+.2f}" if values else ""
    return f"{found.value:+.2f} [{found.lower:+.2f}, {found.upper:+.2f}]"


if __name__ == "__main__":
    main()
