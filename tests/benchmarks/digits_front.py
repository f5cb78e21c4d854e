"""What the default study finds on digits, and whether its front is above what is simpler.

    python tests/benchmarks/digits_front.py [--first 0] [--seeds 5] [--trials 80] [--output F]

For each seed (its own data split, dense training, recovery and search) runs the default study. Says
how much the smallest model chosen on validation as within 1 point of dense loses on test, and holds
the front against the fp16 cast, int8 rounding, and narrower dense networks that are trained from
scratch as the task trains its own, stored as they are and in fp16:

- at their bytes: the front point of the best validation accuracy that is no larger; its test
  accuracy minus theirs;
- at their accuracy: the smallest front point of no lower validation accuracy; how many times
  smaller its file is, and its test accuracy minus theirs.

Differences are paired by seed: mean and 95% t-interval over seeds. "above" and "below" are said
where the interval leaves out 0. The task's width was chosen by test accuracy on seeds 0 to 4, which
flatters dense and its casts there; ``--first 5`` takes seeds it was not chosen on. About 2 minutes
a seed on 2 cores.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measured import command, keep, machine, options, run, table

from analysis.columns import Point
from analysis.findings import Findings, findings
from analysis.load import load_study
from analysis.stats import mean_interval
from compression import save
from trainables.build import about, build
from trainables.record import Choice, LayerRule, Trial
from trainables.tasks.base import Split, observe
from trainables.tasks.digits import Digits

WIDTHS = (3, 4, 6, 8, 12, 16, 20, 24)
STORED = {"fp32": Choice("none"), "fp16": Choice("cast")}
Model = dict[str, float]  # bytes, val, test


def of_point(point: Point) -> Model:
    """A point of a report."""
    names = {"bytes": "file_bytes", "val": "val_accuracy", "test": "test_accuracy"}
    return {short: float(point.values[name] or 0) for short, name in names.items()}


def from_scratch(width: int, stored: str, seed: int, folder: Path) -> Model:
    """A dense network of a width, trained by the task's own procedure and saved."""
    task = Digits(width=width)
    data, test = task.prepare(seed), task.test(seed)
    method = STORED[stored]
    trial = Trial(Choice("digits", {"width": width}), (LayerRule((method,)),), rest=method)
    model, path = build(task, data, trial), folder / f"{width}-{stored}-{seed}.safetensors"
    save(model, str(path), about(trial))

    def accuracy(split: Split) -> float:
        return task.score(observe(task, model, split), split.labels)["accuracy"]

    return {
        "bytes": path.stat().st_size,
        "val": accuracy(data.validation),
        "test": accuracy(test),
    }


def one_seed(seed: int, trials: int, folder: Path) -> dict[str, Any]:
    """The study of a seed, what it chose, its front and its rivals."""
    words = ["--name", str(seed), "--seed", str(seed), "--trials", str(trials), "--quiet"]
    store = ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    run(command("study.run", *words, *store), folder)
    found = findings(load_study(str(folder / "results" / str(seed))))
    rivals = {
        "fp16 cast": of_point(found.baselines["fp16"]),
        "int8 rtn": of_point(found.baselines["int8"]),
    }
    for stored in STORED:
        for width in WIDTHS:
            rivals[f"width {width}, {stored}"] = from_scratch(width, stored, seed, folder)
    return {
        "seed": seed,
        "dense": of_point(found.baselines["dense"]),
        "dense_recovered": of_point(found.baselines["dense_recovered"]),
        "chosen": _chosen(found),
        "front": [of_point(p) for p in found.front],
        "unverified": [p.values["trial_id"] for p in found.front if not p.values["verified"]],
        "rivals": rivals,
    }


def _chosen(found: Findings) -> dict[str, Any] | None:
    names = ("setting", "ratio", "drop", "drop_upper", "drop_vs_recovered", "file_bytes")
    return found.chosen and {name: found.chosen.values[name] for name in names}


def at_bytes(front: Sequence[Model], rival: Model) -> Model | None:
    """The front point of the best validation accuracy among those no larger."""
    fits = [p for p in front if p["bytes"] <= rival["bytes"]]
    return max(fits, key=lambda p: (p["val"], -p["bytes"]), default=None)


def at_accuracy(front: Sequence[Model], rival: Model) -> Model | None:
    """The smallest front point of no lower validation accuracy."""
    fits = [p for p in front if p["val"] >= rival["val"]]
    return min(fits, key=lambda p: p["bytes"], default=None)


def compare(
    seeds: Sequence[dict[str, Any]],
    name: str,
    choose: Callable[[Sequence[Model], Model], Model | None],
) -> dict[str, Any]:
    """A rival beside the front points that ``choose`` holds against it, over seeds."""
    pairs = [(s["rivals"][name], choose(s["front"], s["rivals"][name])) for s in seeds]
    both = [(rival, point) for rival, point in pairs if point]
    ahead = mean_interval([p["test"] - r["test"] for r, p in both]) if both else None
    return {
        "bytes": statistics.mean(r["bytes"] for r, _ in pairs),
        "test": statistics.mean(r["test"] for r, _ in pairs),
        "front_bytes": statistics.mean(p["bytes"] for _, p in both) if both else None,
        "smaller": statistics.geometric_mean(r["bytes"] / p["bytes"] for r, p in both)
        if both
        else None,
        "ahead": ahead and (ahead.value, ahead.lower, ahead.upper),
        "seeds": len(both),
        "verdict": _verdict(ahead and (ahead.lower, ahead.upper), len(both), len(seeds)),
    }


def _verdict(bounds: tuple[float, float] | None, seeds: int, asked: int) -> str:
    few = "" if seeds == asked else f" ({seeds} of {asked} seeds)"
    if bounds is None:
        return f"not comparable{few}"
    if bounds[0] > 0:
        return f"above{few}"
    return f"{'BELOW' if bounds[1] < 0 else 'not told apart'}{few}"


def _points(values: Sequence[float] | None) -> str:
    if values is None:
        return "-"
    mean, lower, upper = (100 * v for v in values)
    return f"{mean:+.2f} [{lower:+.2f}, {upper:+.2f}]"


def show(title: str, results: dict[str, dict[str, Any]]) -> None:
    """A table of :func:`compare`."""
    rows = [["rival", "bytes", "its test", "front's bytes", "smaller", "ahead, points", "front is"]]
    for name, r in results.items():
        smaller = f"{r['smaller']:.2f}x" if r["smaller"] else "-"
        front = f"{r['front_bytes']:.0f}" if r["front_bytes"] else "-"
        test, ahead = f"{100 * r['test']:.2f}%", _points(r["ahead"])
        rows.append([name, f"{r['bytes']:.0f}", test, front, smaller, ahead, r["verdict"]])
    print(f"\n{title}\n{table(rows)}")


def show_chosen(seeds: Sequence[dict[str, Any]]) -> None:
    """The smallest model within 1 point on validation, by seed and over seeds."""
    rows = [["seed", "dense test", "ratio", "bytes", "drop", "95% bound", "vs recovered", "model"]]
    chosen = [s["chosen"] for s in seeds if s["chosen"]]
    for s in seeds:
        if c := s["chosen"]:
            drops = [f"{100 * c[k]:+.2f}" for k in ("drop", "drop_upper", "drop_vs_recovered")]
            size = [f"{c['ratio']:.2f}x", str(c["file_bytes"])]
            dense = f"{100 * s['dense']['test']:.2f}%"
            rows.append([str(s["seed"]), dense, *size, *drops, c["setting"]])
    print("Smallest model chosen on validation as within 1 point of dense; drops on test, points")
    print(table(rows))
    if len(chosen) < len(seeds):
        print(f"none within 1 point: {len(seeds) - len(chosen)} of {len(seeds)} seeds")
    for name, words in (("drop", "dense"), ("drop_vs_recovered", "dense, as much recovered")):
        if mean := mean_interval([c[name] for c in chosen]):
            interval = _points((mean.value, mean.lower, mean.upper))
            print(f"mean test drop against {words}: {interval} points")
    ratios = [c["ratio"] for c in chosen]
    if ratios:
        extremes = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"ratio: geometric mean {statistics.geometric_mean(ratios):.2f}, {extremes}")


def main() -> None:
    """See the module."""
    given = options(__doc__, first=0, seeds=5, trials=80)
    torch.set_num_threads(1)
    where, seeds = machine(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.first, given.first + given.seeds):
            seeds.append(one_seed(seed, given.trials, Path(os.path.realpath(folder))))
            print(f"seed {seed} done", flush=True)
            keep(given.output, {"machine": where, "seeds": seeds})
    show_chosen(seeds)
    compared = {
        title: {name: compare(seeds, name, choose) for name in seeds[0]["rivals"]}
        for title, choose in (("At the rival's bytes", at_bytes),
                              ("At the rival's validation accuracy", at_accuracy))
    }  # fmt: skip
    for title, results in compared.items():
        show(title, results)
        behind = [name for name, r in results.items() if not r["verdict"].startswith("above")]
        print(f"not above: {'; '.join(behind) or 'none'}")
    if wrong := [i for s in seeds for i in s["unverified"]]:
        print(f"front points that were not verified: {', '.join(wrong)}")
    keep(given.output, {"machine": where, "seeds": seeds, "compared": compared})


if __name__ == "__main__":
    main()
