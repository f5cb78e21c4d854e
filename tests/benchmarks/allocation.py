"""Bits allotted by layer against the best uniform setting, at equal bytes of the file.

    python tests/benchmarks/allocation.py [--task reviews|decoder|digits|crops|solver] [--seeds 5]
                    [--first 0] [--by distortion] [--refine 8] [--bits 3] [--examples 2000]
                    [--output FILE]

The budget is 5% above the file of the task's targets at ``bits`` bits. For each seed validation is
cut in two halves. On the first the best of all uniform settings within the budget is taken; then
``by`` allots as many bytes as that one's file has, from calibration examples of train alone. The
second half scores both. Nothing is trained, there are no adapters. The seed is of the halves and of
the calibration examples; the dense model is one.

Printed: for each seed both files and both held-out scores, and the paired difference, mean and 95%
t-interval over the seeds. ``solver`` instead times the exact solver on 200 layers of 30 choices.
Reviews need PARETUNE_REVIEWS, the wheel of product_reviews.yaml.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from layerwise import TASKS, Bench, gap
from layerwise import config as config_of
from measured import keep, machine, table

SPACE = """
task: %s
epochs: %d
space:
  method: [{rtn: {bits: [2, 3, 4, 5, 6, 8], mode: asymmetric, group_size: 32}}]
  adapter: none
  batch_size: %s
  optimizer: [{%s}]
  layerwise: {groups: %s}
"""


class AllocationBench(Bench):
    """One seed: the best uniform setting and an allocation."""

    text = SPACE

    def allocation(self, most_bytes: int, by: str, refine: int) -> Any:
        """What an allocator makes of the bytes."""
        from compression.allocation import ALLOCATORS
        from study.allocation.allocations import allocated
        from study.allocation.costs import Evidence
        from study.layerwise.sensitivity import measured
        from study.layerwise.settings import Settings
        from study.layerwise.sizes import Sizes

        space = self.config("each").search_space()
        sizes = Sizes(space, self.task, self.data)
        settings = Settings(space, sizes, {group.name: {} for group in space.groups})
        evidence = Evidence(
            self.task,
            self.data,
            settings,
            lambda measure: measured(space, self.task, self.data, 256, self.seed, measure).growths,
        )
        allocator = ALLOCATORS.build(by)
        found = allocated(allocator, evidence, most_bytes, refine, self.seed, by)
        return found, self.record(self.asked(space, found.params))

    def compared(self, bits: int, by: str, refine: int) -> dict[str, Any]:
        """Both, chosen without the second half and scored on it."""
        begun = time.perf_counter()
        records, budget = self.uniform(bits, 0)
        one = min(records, key=self.loss)
        middle = time.perf_counter()
        allocation, many = self.allocation(one.outcome.size.file_bytes, by, refine)
        return {
            "seed": self.seed,
            "budget": budget,
            "bytes": [r.outcome.size.file_bytes for r in (one, many)],
            "held_out": [self.score(r) for r in (one, many)],
            "uniform": str(one.trial.layers[0]),
            "losses": [allocation.solved, allocation.kept],
            "changed": allocation.changed,
            "layers": [str(rule) for rule in many.trial.layers],
            "seconds": [middle - begun, time.perf_counter() - middle],
        }


def solver_times() -> list[list[str]]:
    """Of the exact solver, on problems of three kinds."""
    from compression.allocation.least_sum import least_sum
    from compression.allocation.solution import Problem

    rows = [["costs", "seed", "seconds", "gap"]]
    for kind in ("falling", "random", "alike"):
        for seed in range(3):
            draw = np.random.default_rng(seed)
            sizes = np.sort(draw.integers(1, 4_000_000, (200, 30)), axis=1)
            costs = {
                "falling": np.exp(draw.normal(0, 1.5, (200, 1)) - 8 * sizes / 4e6)
                * draw.uniform(0.8, 1.2, sizes.shape),
                "random": draw.random(sizes.shape),
                "alike": -(sizes + draw.integers(0, 1000, sizes.shape)) / 4e6,
            }[kind]
            begun = time.perf_counter()
            problem = Problem.of(list(costs), list(sizes), int(sizes.mean(1).sum() * 0.6))
            found = least_sum(problem)
            if found is None:
                raise RuntimeError("nothing fits into more than half of the bytes")
            seconds = time.perf_counter() - begun
            rows.append([kind, str(seed), f"{seconds:.2f}", f"{found.gap:.1e}"])
    return rows


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=[*TASKS, "solver"], default="reviews")
    parser.add_argument("--by", default="distortion", help="an allocator; default distortion")
    numbers = {"seeds": 5, "first": 0, "refine": 8, "bits": 3, "examples": 2000}
    for option, default in numbers.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    given = parser.parse_args()
    if given.task == "solver":
        return print(table(solver_times()))
    task = config_of(given.task, 0, "each", SPACE).task
    data = task.prepare(0)
    data.model.eval()
    cells = []
    for seed in range(given.first, given.first + given.seeds):
        bench = AllocationBench(given.task, 0, given.examples, seed, data)
        cells.append(bench.compared(given.bits, given.by, given.refine))
        print({k: v for k, v in cells[-1].items() if k != "layers"}, flush=True)
        keep(given.output, {"machine": machine(), **vars(given), "output": "", "cells": cells})
    print(table(rows(cells)))
    print(f"{given.by} less uniform, {task.metric}: {gap(cells)}")


def rows(cells: list[dict[str, Any]]) -> list[list[str]]:
    """A row a seed."""
    head = ["seed", "bytes", "allotted bytes", "held-out", "allotted", "seconds"]
    return [head] + [
        [
            str(c["seed"]),
            *map(str, c["bytes"]),
            *(f"{score:.4f}" for score in c["held_out"]),
            " + ".join(f"{s:.0f}" for s in c["seconds"]),
        ]
        for c in cells
    ]


if __name__ == "__main__":
    main()
