"""How long fronts, hypervolumes and charts take on many trials.

    OMP_NUM_THREADS=1 python tests/benchmarks/fronts.py [TRIALS]

Prints the median of repeated runs, on this machine, in milliseconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import charted_study

from analysis.charts import CHARTS
from analysis.findings import findings
from analysis.fronts import hypervolume, non_dominated


def milliseconds(call: Callable[[], object], times: int) -> float:
    """Median wall time of a call."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - start))
    return median(spent)


def clouds(count: int) -> dict[str, np.ndarray]:
    """Losses: as a search leaves them, and the worst case, all of them on the front."""
    rng = np.random.default_rng(0)
    found = {}
    for columns in (2, 3):
        bits = rng.uniform(1, 16, count)
        error = np.round(np.exp(-bits * rng.uniform(0.3, 1, count)) * 359) / 359
        searched = np.stack([error, np.log2(bits), bits * rng.uniform(0.5, 2, count)], axis=1)
        found[f"{columns} objectives, as searched"] = searched[:, :columns]
        sphere = rng.normal(size=(count, columns))
        found[f"{columns} objectives, all on the front"] = -np.abs(
            sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
        )
    return found


def main(count: int) -> None:
    """Print one line a measurement."""
    for name, losses in clouds(count).items():
        reference = losses.max(axis=0) + 1
        front = milliseconds(lambda losses=losses: non_dominated(losses), 51)
        volume = milliseconds(lambda losses=losses, at=reference: hypervolume(losses, at), 51)
        kept = int(non_dominated(losses).sum())
        print(f"{name}: front {front:.2f} ms ({kept} points), hypervolume {volume:.2f} ms")
    study = charted_study.again(charted_study.charted(count))
    start = time.perf_counter()
    found = findings(study)
    print(f"findings: {1e3 * (time.perf_counter() - start):.0f} ms")
    for name, maker in CHARTS.items():
        print(f"chart {name}: {milliseconds(lambda maker=maker: maker(found), 3):.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
