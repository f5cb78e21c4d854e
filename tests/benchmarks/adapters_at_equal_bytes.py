"""Every adapter beside LoRA: as many bytes, as many trials, each in its own learning rates.

    python tests/benchmarks/adapters_at_equal_bytes.py [--task digits] [--seeds 5] [--first 0]
                    [--trials 7] [--adapters a,b] [--workers 2] [--output FILE]

All layers are compressed alike for all; those that every adapter can take are adapted. The budget
is the file of LoRA at the task's rank: each adapter gets the rank, and the one knob of its own if
that is needed, with which its file comes within 2% of it, or else nearest from below, or, if none
is so small, smallest. Adapters whose ranks move get LoRA's rank, which is their mean at the end;
those that end inside the weight, where no rank costs a byte, eight times that.
Learning rates are ``trials`` points, evenly in the logarithm, from the low end of Adam's own range
to ten times its high end, times the adapter's factor: wide enough that few choose an end of it (the
column says how many of the seeds do). For each seed, which varies split, dense training and
recovery, validation chooses among them, and that file is scored on test.

Printed for each adapter: bytes, test metric over the seeds, the difference to LoRA paired by seed
with its 95% t-interval, and whether it is told apart when all adapters are asked at once (Holm).
With --output, what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

from measured import keep, machine, table

from analysis.stats import mean_interval

TASKS: dict[str, dict[str, Any]] = {
    "digits": {
        "task": ["digits", {"width": 64}],
        "layers": "[13]",
        "base": ["rtn", {"bits": 2}],
        "rank": 2,
        "epochs": 12,
        "batch": 32,
    },
    "mnist5k": {
        "task": ["mnist5k", {"width": 8}],
        "layers": "10",
        "base": ["rtn", {"bits": 2}],
        "rank": 2,
        "epochs": 5,
        "batch": 64,
    },
}
RANKS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
REFERENCE = "lora"
TOLERANCE = 0.02


class Files:
    """Artifacts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file."""
        (self.folder / name).write_bytes(data)


@cache
def prepared(name: str, seed: int) -> Any:
    """Task and data: once a process."""
    import torch

    from trainables.calibration import calibrated
    from trainables.tasks import TASKS as REGISTRY

    torch.set_num_threads(1)
    kind, args = TASKS[name]["task"]
    task = REGISTRY.build(kind, args)
    return task, calibrated(task.prepare(seed), 256, seed)


def trial(name: str, adapter: str, args: dict[str, Any], rank: int, rate: float, seed: int) -> Any:
    """What is asked for; without a rate, nothing is trained."""
    from trainables.record import Choice, LayerRule, Trial

    own = TASKS[name]
    base = (Choice(*own["base"]),)
    rules = [LayerRule(base)]  # of all other layers
    if adapter != "none":
        given = {"adapter": Choice(adapter, args), "rank": rank, "pattern": own["layers"]}
        rules.insert(0, LayerRule(base, **given))
    training = {"optimizer": Choice("adam"), "lr": rate, "batch_size": own["batch"],
                "epochs": own["epochs"], "lr_schedule": Choice("cosine")}  # fmt: skip
    return Trial(Choice(*own["task"]), tuple(rules), seed=seed, **(training if rate else {}))


def forms(adapter: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Settings that change how large an adapter is: ranks, and one knob at a time."""
    from compression.adapters import ADAPTERS

    cls = ADAPTERS[adapter]
    knobs: list[dict[str, Any]] = [{}]
    for key, knob in cls.knobs().items():
        if key in ("dtype", "seed", *cls.of_alpha):
            continue
        for domain in (knob.search, knob.valid):
            low, high = getattr(domain, "low", None), getattr(domain, "high", None)
            values = getattr(domain, "values", ())
            if type(low) is int and type(high) is int:
                values = [v for v in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
                          if low <= v <= high]  # fmt: skip
            knobs += [{key: value} for value in values if {key: value} not in knobs]
    for args in knobs:
        for rank in RANKS if cls.ranked else (0,):
            yield args, rank


def size(name: str, adapter: str, args: dict[str, Any], rank: int) -> int | None:
    """Bytes of the file before training; None where the adapter cannot be so."""
    from compression.model import as_saved
    from compression.registry import InvalidSetting
    from trainables.build import build, measure_size

    task, data = prepared(name, 0)
    asked = trial(name, adapter, args, rank, 0.0, 0)
    try:
        model = build(task, data, asked)
        with as_saved(model):
            return int(measure_size(model, task, data, asked).file_bytes)
    except InvalidSetting:
        return None


def fitted(name: str, adapter: str) -> dict[str, Any]:
    """The form of an adapter that comes nearest to the budget, from below if it can."""
    from compression.adapters import ADAPTERS
    from compression.adapters.ranks.gated import Gated

    rank = TASKS[name]["rank"]
    budget = size(name, REFERENCE, {}, rank)
    if budget is None:
        raise ValueError(f"{REFERENCE} cannot be so small")
    if issubclass(ADAPTERS[adapter], Gated):
        return {"adapter": adapter, "budget": budget, "args": {}, "rank": rank}
    if ADAPTERS[adapter].merges:  # whatever its rank is, no byte of it is stored
        rank = 8 * rank
        refused = size(name, adapter, {}, rank) is None
        return {"adapter": adapter, "budget": budget, "args": {}, "rank": rank, "refused": refused}
    found = []
    for args, rank in forms(adapter):
        length = size(name, adapter, args, rank)
        if length is not None:
            near = abs(length / budget - 1) <= TOLERANCE
            below = length if length <= budget else -length
            found.append(((near, 0 if near else below), args, rank))
    if not found:
        return {"adapter": adapter, "budget": budget, "refused": True}
    # Defaults come first, and of equals the first is kept.
    _, args, rank = max(found, key=lambda form: form[0])
    return {"adapter": adapter, "budget": budget, "args": args, "rank": rank}


def rates(adapter: str, count: int) -> list[float]:
    """Evenly in the logarithm, over the adapter's own range and a factor 10 above it."""
    from compression.adapters import ADAPTERS
    from trainables.optimizers import OPTIMIZERS

    own, factor = OPTIMIZERS["adam"].lr, ADAPTERS[adapter].lr_factor
    step = (10 * own.high / own.low) ** (1 / max(count - 1, 1))
    return [own.low * step**i * factor for i in range(count)]


def cell(name: str, form: dict[str, Any], count: int, seed: int) -> dict[str, Any]:
    """An adapter in one seed: all rates, of which validation chooses one for test."""
    from compression.artifact import load
    from trainables.attempt import Attempt
    from trainables.features import features_of
    from trainables.tasks.base import observe

    task, data = prepared(name, seed)
    adapter, runs = form["adapter"], []
    with tempfile.TemporaryDirectory() as folder:
        for rate in rates(adapter, count) if adapter != "none" else [0.0]:
            begun = time.perf_counter()
            asked = trial(name, adapter, form.get("args", {}), form.get("rank", 0), rate, seed)
            attempt = Attempt(task, data, asked, Files(Path(folder)))
            while not attempt.finished:
                attempt.advance()
            done = attempt.outcome
            run = {"rate": rate, "id": attempt.trial_id, "error": done.error,
                   "seconds": time.perf_counter() - begun}  # fmt: skip
            if done.size is not None:
                val = done.metrics["val"]
                run |= {"validation": val[task.metric], "loss": val.get("loss", 0.0),
                        "bytes": done.size.file_bytes}  # fmt: skip
            runs.append(run)
        found = {"adapter": adapter, "seed": seed, "form": form, "runs": runs}
        scored = [run for run in runs if "validation" in run]
        if not scored:
            return found
        best = max(scored, key=lambda run: (run["validation"], -run["loss"]))
        model = load(f"{folder}/{best['id']}.safetensors", task.architecture())
        forward, split = features_of(task, data.model, model, task.test(seed))
        scores = task.score(observe(task, forward, split), split.labels)
        return found | {"chosen": best, "test": float(scores[task.metric])}


def main() -> None:
    """See the module."""
    from compression.adapters import ADAPTERS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, default in {"first": 0, "seeds": 5, "trials": 7, "workers": 2}.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--adapters", default=",".join(ADAPTERS), help="which of them")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    parser.add_argument("--markdown", action="store_true", help="the table for the docs")
    given = parser.parse_args()
    names = [REFERENCE, *(a for a in given.adapters.split(",") if a != REFERENCE)]
    seeds = range(given.first, given.first + given.seeds)
    done = json.loads(given.output.read_text()) if given.output and given.output.exists() else {}
    cells, known = done.get("cells", {}), done.get("forms", {})
    found = {"machine": machine(), "task": given.task, "trials": given.trials,
             "cells": cells, "forms": known}  # fmt: skip
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.workers, mp_context=spawn) as pool:
        new = [name for name in names if name not in known and name != "none"]
        for form in pool.map(fitted, [given.task] * len(new), new):
            known[form["adapter"]] = form
        known["none"] = {"adapter": "none"}
        left = [(n, s) for s in seeds for n in names
                if f"{n}|{s}" not in cells and not known[n].get("refused")]  # fmt: skip
        waiting = [pool.submit(cell, given.task, known[n], given.trials, s) for n, s in left]
        for future in as_completed(waiting):
            one = future.result()
            cells[f"{one['adapter']}|{one['seed']}"] = one
            print(f"{one['adapter']}, seed {one['seed']}: test {one.get('test')}", flush=True)
            keep(given.output, found)
    rows = summary(names, known, list(cells.values()))
    print("\n" + (_markdown(rows) if given.markdown else table(rows)))


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def summary(
    names: list[str], known: dict[str, Any], cells: list[dict[str, Any]]
) -> list[list[str]]:
    """A row an adapter, the best first."""
    tests = {(c["adapter"], c["seed"]): c["test"] for c in cells if "test" in c}
    rows, chances = [], {}
    for name in names:
        mine = {s: value for (a, s), value in tests.items() if a == name}
        gaps = [100 * (v - tests[REFERENCE, s]) for s, v in mine.items()]
        form, own = known[name], [c for c in cells if c["adapter"] == name and "chosen" in c]
        if form.get("refused") or not mine:
            rows.append((-1.0, [name, "refused" if form.get("refused") else "failed", *[""] * 6]))
            continue
        sizes = sorted(c["chosen"]["bytes"] for c in own)
        runs = [run for c in own for run in c["runs"]]
        lost = sum(run.get("error") is not None for run in runs)
        text = " ".join([*(f"{k}={v}" for k, v in form.get("args", {}).items()),
                         *([f"r{form['rank']}"] if form.get("rank") else [])])  # fmt: skip
        span = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        mean = 100 * statistics.mean(mine.values())
        if name != REFERENCE and len(gaps) > 1:
            chances[name] = _chance(gaps)
        rows.append((mean, [name, text, span, f"{mean:.2f}", _gap(name, gaps), "",
                            _edges(own), f"{lost}/{len(runs)}" if lost else "0"]))  # fmt: skip
    apart = _holm(chances)
    for _, row in rows:
        row[5] = "yes" if row[0] in apart else ""
    head = [
        "adapter",
        "form",
        "bytes",
        "test, mean",
        "less lora, 95%",
        "apart",
        "at an end",
        "failed",
    ]
    return [head, *(row for _, row in sorted(rows, key=lambda one: -one[0]))]


def _edges(cells: list[dict[str, Any]]) -> str:
    """In how many seeds the lowest and the highest learning rate were chosen."""
    chosen = [(c["chosen"]["rate"], [run["rate"] for run in c["runs"]]) for c in cells]
    low = sum(len(tried) > 1 and rate == min(tried) for rate, tried in chosen)
    high = sum(len(tried) > 1 and rate == max(tried) for rate, tried in chosen)
    return f"{low} low, {high} high" if low or high else ""


def _gap(name: str, gaps: list[float]) -> str:
    interval = mean_interval(gaps)
    if name == REFERENCE or interval is None:
        return ""
    return f"{statistics.mean(gaps):+.2f} ({interval.lower:+.2f} to {interval.upper:+.2f})"


def _chance(gaps: list[float]) -> float:
    """Of a mean as far from 0 if there were no difference: paired t, two-sided."""
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(gaps, 0.0).pvalue) if len(set(gaps)) > 1 else 1.0


def _holm(chances: dict[str, float], level: float = 0.05) -> set[str]:
    """Those told apart at the level over all of them together."""
    found: set[str] = set()
    for rank, (name, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        if chance > level / (len(chances) - rank):
            break
        found.add(name)
    return found


if __name__ == "__main__":
    main()
