"""Searches on a real task, at equal time: the same study with different searchers and schedulers.

    python tests/benchmarks/live_search.py [--first 0] [--seeds 3] [--seconds 45] [--arms A ...]
                                           [--output FILE.json]

Each arm, `searcher+scheduler`, is a study of the default config (digits) by the command, ended by
its `--time-budget`, in which its workers start too. Printed is the hypervolume of what the search's
trials came to on validation (metric above chance, times log2 of the ratio), over the seeds, which
vary split, dense training, recovery and search, and the first arm less each other, paired by seed,
with its 95% t-interval.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from measured import command, keep, machine, run, table

from analysis.fronts import hypervolume
from analysis.load import load_study
from analysis.stats import mean_interval

ARMS = ("forest+pareto_asha", "tpe+fifo", "nsga2+fifo", "random+fifo", "tpe+asha")


def searched(folder: Path, arm: str, seed: int, seconds: int) -> dict[str, Any]:
    """One study: its hypervolume and how many trials it ran."""
    searcher, scheduler = arm.split("+")
    name = f"{searcher}-{scheduler}-{seed}"
    options = ["--name", name, "--seed", str(seed), "--time-budget", f"{seconds}s", "--quiet"]
    options += ["--trials", "100000", "--set", f"searcher={searcher}"]
    options += ["--set", f"scheduler={scheduler}", "--tracking-uri", f"sqlite:///{folder}/m.db"]
    run(command("study.run", *options), folder)
    study = load_study(str(folder / "results" / name))
    rows = [row.record.outcome for row in study.rows if row.role == "search"]
    points = [(-o.metrics["val"]["accuracy"], -o.size.log2_ratio) for o in rows if o.size]
    chance = study.info["reference"]["val_accuracy"]
    return {
        "arm": arm,
        "seed": seed,
        "trials": len(rows),
        "volume": hypervolume(points, (-chance, 0.0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=45, help="of a study; default 45")
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [
            searched(Path(folder), arm, seed, given.seconds)
            for seed in range(given.first, given.first + given.seeds)
            for arm in given.arms
        ]
    keep(given.output, {"machine": machine(), "seconds": given.seconds, "found": found})
    volumes = {arm: [f["volume"] for f in found if f["arm"] == arm] for arm in given.arms}
    rows = [["arm", "trials", "hypervolume", f"{given.arms[0]} less it, 95%"]]
    for arm, values in volumes.items():
        pairs = zip(volumes[given.arms[0]], values, strict=True)
        gap = mean_interval([ours - other for ours, other in pairs])
        trials = statistics.median(f["trials"] for f in found if f["arm"] == arm)
        said = "" if arm == given.arms[0] or gap is None else (
            f"{gap.value:+.3f} [{gap.lower:+.3f}, {gap.upper:+.3f}]"
        )  # fmt: skip
        rows.append([arm, f"{trials:.0f}", f"{statistics.median(values):.3f}", said])
    print(table(rows))


if __name__ == "__main__":
    main()
