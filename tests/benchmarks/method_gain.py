"""What more methods bring a study: the front of the first four beside that of all, equal budgets.

    python tests/benchmarks/method_gain.py [--first 0] [--seeds 5] [--trials 60] [--tasks a,b]
                                           [--output FILE.json]

For each task and seed two studies, one after the other, of equal trials, epochs, seed, searcher
and scheduler: `first` with the methods and inits that the project began with, `all` with every
method and init that suits a first try. Printed is the hypervolume of each front (validation metric
above chance, times log2 of the ratio; the larger the better), over the seeds, and the difference,
paired by seed, with its 95% t-interval; likewise on test, for the points that validation chose. The
time of a study is shown too: methods cost what they cost.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from measured import command, keep, machine, run, table

from analysis.findings import Findings, findings
from analysis.fronts import hypervolume
from analysis.load import load_study
from analysis.stats import mean_interval

FIRST = {
    "method": ["int1", "rtn", "block_sparse", "svd"],
    "init": ["zeros", "residual", "pissa", "loftq"],
}
ALL = {
    "method": [
        "int1",
        "rtn",
        "block_sparse",
        "svd",
        "ternary",
        "hqq",
        "gptq",
        "awq",
        "sparsegpt",
        "whitened_svd",
        ["n_m", "rtn"],
        ["magnitude", "rtn"],
        ["svd", "rtn"],
    ],
    "init": ["zeros", "residual", "pissa", "loftq", "lqer", "eora"],
}
COMMON = {
    "adapter": ["none", {"lora": {"dtype": ["float32", "float16"]}}],
    "optimizer": ["adam"],
    "batch_size": 32,
    "rest": ["none", "cast"],
}
TASKS: dict[str, dict[str, Any]] = {
    "digits": {"task": "digits", "epochs": 24, "space": {"rank": [1, 2, 4, 8]}},
    "mnist5k": {"task": "mnist5k", "epochs": 8, "space": {"rank": [1, 2, 4, 8]}},
    "imagenet_crops": {
        "task": {"imagenet_crops": {"layers": "classifier", "crops": 40}},
        "epochs": 8,
        "space": {"rank": [4, 16, 64], "batch_size": 64},
    },
}


def config(task: str, methods: dict[str, Any], trials: int, seed: int) -> dict[str, Any]:
    """The study's YAML as data."""
    own = TASKS[task]
    space = COMMON | own["space"] | methods
    return own | {"trials": trials, "seed": seed, "space": space}


def study(name: str, settings: dict[str, Any], folder: Path) -> dict[str, float]:
    """Run it by its command; hypervolumes, and how long it took."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(settings))
    store = ["--tracking-uri", f"sqlite:///{folder}/mlflow.db", "--quiet"]
    begun = time.perf_counter()
    run(command("study.run", "--config", str(file), "--name", name, *store), folder)
    seconds = time.perf_counter() - begun
    found = findings(load_study(str(folder / "results" / name)))
    return {
        "validation": volume(found, "val"),
        "test": volume(found, "test"),
        "seconds": seconds,
        "front": len(found.front),
    }


def volume(found: Findings, split: str) -> float:
    """Hypervolume of a front that validation chose, by its metric on a split."""
    metric, worst = found.y, found.study.info["reference"][found.y.name]
    name = metric.name.replace("val_", f"{split}_", 1)
    rows = [(point.number(name), point.number("ratio")) for point in found.front]
    losses = [(metric.loss(y), -math.log2(ratio)) for y, ratio in rows if y and ratio]
    return hypervolume(losses, (metric.loss(worst), 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {"first": 0, "seeds": 5, "trials": 60}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--tasks", default=",".join(TASKS), help="which of them")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    given = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "trials": given.trials}
    for task in given.tasks.split(","):
        found[task] = []
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(given.first, given.first + given.seeds):
                pair = {}
                for kind, methods in {"first": FIRST, "all": ALL}.items():
                    settings = config(task, methods, given.trials, seed)
                    pair[kind] = study(f"{task}-{kind}-{seed}", settings, Path(folder))
                found[task].append(pair)
                print(f"{task}, seed {seed}: {pair}", flush=True)
                keep(given.output, found)
    print("\n" + table(summary(found, given.tasks.split(","))))
    keep(given.output, found)


def summary(found: dict[str, Any], tasks: list[str]) -> list[list[str]]:
    """A row a task: medians side by side, and the paired difference."""
    rows = [["", "first", "all", "difference, 95%", "on test", "seconds first", "seconds all"]]
    for task in tasks:
        pairs = found[task]

        def median(kind: str, key: str, pairs: list[Any] = pairs) -> float:
            return statistics.median(pair[kind][key] for pair in pairs)

        rows.append(
            [
                task,
                f"{median('first', 'validation'):.3f}",
                f"{median('all', 'validation'):.3f}",
                gap(pairs, "validation"),
                gap(pairs, "test"),
                f"{median('first', 'seconds'):.0f}",
                f"{median('all', 'seconds'):.0f}",
            ]
        )
    return rows


def gap(pairs: list[Any], key: str) -> str:
    """All less first, mean and interval over seeds."""
    values = [pair["all"][key] - pair["first"][key] for pair in pairs]
    interval = mean_interval(values)
    if interval is None:
        return f"{values[0]:+.3f}"
    return f"{interval.value:+.3f} [{interval.lower:+.3f}, {interval.upper:+.3f}]"


if __name__ == "__main__":
    main()
