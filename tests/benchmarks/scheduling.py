"""What one report costs every scheduler while a rung holds many trials: median and extremes, in ms.

    python tests/benchmarks/scheduling.py --trials 10000 --reports 200

Trials are random and lie near a front, so that quotas don't settle the answer at once. The rung is
filled with ``--trials`` of them, then ``--reports`` more arrive; what is printed is the time of
these. Bar: 5 ms in the median with two objectives.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from measured import keep, machine, options, spread, table

from study.schedulers import SCHEDULERS, Budget, ParetoAsha, Scheduler, Standing
from study.schedulers.pareto_asha import RULES

BUDGET = Budget(12)
OBJECTIVES = (2, 3)


def schedulers() -> dict[str, Scheduler]:
    """All of them, and the rules of pareto_asha."""
    found: dict[str, Scheduler] = {n: SCHEDULERS.build(n) for n in SCHEDULERS if n != "pareto_asha"}
    return found | {f"pareto_asha, {rule}": ParetoAsha(rule=rule) for rule in RULES}


def losses(count: int, objectives: int) -> np.ndarray:
    """(count, objectives): on a sphere's lower side, and a little above it."""
    drawn = np.random.default_rng(0)
    points = np.abs(drawn.normal(size=(count, objectives)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return 1 - points * drawn.uniform(0.9, 1.0, size=(count, 1))


def seconds_of_reports(scheduler: Scheduler, trials: int, reports: int, objectives: int) -> list:
    """Time of each of ``reports``, after ``trials`` have reached the first rung; a tenth end."""
    rungs = scheduler.start(BUDGET)
    epoch = next(iter(scheduler.milestones(BUDGET)), 1)
    found = []
    for i, row in enumerate(losses(trials + reports, objectives)):
        at = Standing(epoch, tuple(row.tolist()), float(epoch))
        began = time.perf_counter()
        rungs.on_report(f"trial {i}", at)
        found.append(time.perf_counter() - began)
        if i % 10 == 0 and i < trials:
            last = (float(row[0]) - 0.1 / (1 + i % 7), *row[1:].tolist())
            rungs.on_report(f"trial {i}", Standing(BUDGET.epochs, last, float(BUDGET.epochs)))
    return found[trials:]


def main() -> None:
    """Measure and print."""
    asked = options(__doc__, trials=10_000, reports=200)
    where, results = machine(), {}
    for name, scheduler in schedulers().items():
        for objectives in OBJECTIVES:
            taken = seconds_of_reports(scheduler, asked.trials, asked.reports, objectives)
            results[f"{name}, {objectives} objectives"] = [1e3 * t for t in taken]
    print(
        table([("ms a report", "median (extremes)"), *((n, spread(r)) for n, r in results.items())])
    )
    slow = [n for n, r in results.items() if ", 2 " in n and statistics.median(r) > 5]
    print(f"above 5 ms with 2 objectives: {', '.join(slow) or 'none'}")
    keep(asked.output, {"machine": where, "ms": results})


if __name__ == "__main__":
    main()
