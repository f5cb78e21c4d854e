"""How fast searches find the front: arms beside each other on recorded tasks, in virtual time.

    python tests/benchmarks/search.py [--task a,b] [--seeds 30] [--first 0] [--budget 60]
                                      [--arms ARM ...] [--ours ARM] [--answer-all] [--quick]
                                      [--output FILE.json]

An arm is a rival's name (per_rank, nsga2, motpe, ray, syne_tune) or a searcher and a scheduler of
the project with what of their knobs is not at its default: `tpe+asha`, `tpe:startup=10+asha:eta=3`.
Printed for each task: the hypervolume (metric above chance, times log2 of the ratio) as a share of
the best that is known of the task, when a quarter, a half, three quarters and all of the budget are
spent, medians with quartiles over seeds; ours less each rival at the end, paired by seed, with 95%;
and the share of the budget at which ours reaches what the rival ends at, of the median curves and
as the median over seeds. The budget is in full trials, set-up and all epochs; four workers.

Studies here answer a setting that was run before from its record. Stock tools run it again and pay
for it, and so do the rivals; with `--answer-all` they get it for nothing too, which shows how much
of the difference that is (slow: Ray's arm then asks thousands of times).

Defaults were chosen on task A alone. B is for the report: nothing may be tuned on it.
As a task, `b/nearest` plays the recorded trial that is nearest, in place of a forest's mean.
`simulated.py` holds the rules, `rivals.py` the arms, `surrogate.py` the tasks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from measured import keep, machine, table
from record_curves import DESIGNS
from rivals import MISSING, RIVALS, arm
from simulated import Drawn, Losses, Params, Played, Rules, losses_of, simulate, volumes
from surrogate import Surrogate, surrogate

from analysis.fronts import hypervolume
from analysis.stats import mean_interval
from study.config import StudyConfig

WORKERS = 4
POOL = 20_000
STEPS = 200  # at which a curve is kept
QUARTERS = (0.25, 0.5, 0.75, 1.0)
SEARCHER, SCHEDULER = (StudyConfig.model_fields[k].default for k in ("searcher", "scheduler"))
OURS = f"{SEARCHER}+{SCHEDULER}"
ABLATIONS = (f"random+{SCHEDULER}", f"{SEARCHER}+fifo", "random+fifo")
TOLD = tuple(f"tpe:told={told}+{SCHEDULER}" for told in ("pruned", "nothing", "predicted"))
UNCAPPED = (f"{SEARCHER}:history=100000+{SCHEDULER}",)
ARMS = (OURS, *ABLATIONS, *TOLD, *UNCAPPED, *RIVALS)
PROCESSES = 2


@dataclass(frozen=True)
class Job:
    """One search: ``trials`` is the budget in full trials, ``best`` the hypervolume that is 1.

    ``answers`` says that settings that were run before are not run again.
    """

    task: str
    arm: str
    seed: int
    trials: float
    best: float
    answers: bool = True


@dataclass(frozen=True)
class Searched:
    """What came of it: the share by spent budget, (STEPS,), counts, and how long it took here."""

    job: Job
    curve: tuple[float, ...]
    counts: dict[str, int]
    seconds: float


def search(job: Job) -> Searched:
    """Play one search."""
    model, began = surrogate(job.task), time.process_time()
    rules = rules_of(model, job.trials, job.answers)
    played = simulate(arm(job.arm, model.config, job.seed), rules)
    grid = np.linspace(0.0, rules.budget, STEPS + 1)[1:]
    curve = volumes(played.landed, grid, corner(model.config), job.best)
    seconds = time.process_time() - began
    return Searched(job, tuple(curve.tolist()), counts(played), seconds)


def rules_of(model: Surrogate, trials: float, answers: bool = True) -> Rules:
    """As a study of that task has them."""
    space, full = model.space, model.set_up + model.epochs
    same: Callable[[Params], Hashable] = lambda params: space.to_trial(params, 0)  # noqa: E731
    return Rules(
        model,
        same if answers else lambda params: object(),
        model.config.task.objective,
        WORKERS,
        trials * full,
        model.unit,
    )


def corner(config: StudyConfig) -> Losses:
    """The worst corner: chance, and nothing saved."""
    return config.task.objective.loss(config.task.chance), 0.0


def counts(played: Played) -> dict[str, int]:
    """Of trials, by what became of them."""
    return {name: getattr(played, name) for name in ("ended", "stopped", "failed", "answered")}


@lru_cache
def best(task: str) -> float:
    """Hypervolume of the front of a large random pool and of all that was recorded."""
    model, draws = surrogate(task), Drawn(0)
    pool = [model.space.define(draws) for _ in range(POOL)]
    losses = losses_of(model.foretell([*pool, *model.settings]), model.config.task.objective)
    return hypervolume(losses, corner(model.config))


def play(jobs: Sequence[Job]) -> list[Searched]:
    """All of them, in parallel processes; as they end, not in order."""
    found: list[Searched] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        for done in as_completed([pool.submit(search, job) for job in jobs]):
            found.append(done.result())
            if len(found) % 50 == 0:
                print(f"{len(found)} of {len(jobs)} searches", flush=True)
    return found


def curves(found: Sequence[Searched], arms: Sequence[str]) -> dict[str, np.ndarray]:
    """By arm, (seeds, STEPS), the seeds in order."""
    return {
        name: np.array(
            [
                one.curve
                for one in sorted(found, key=lambda one: one.job.seed)
                if one.job.arm == name
            ]
        )
        for name in arms
    }


def progress(by_arm: Mapping[str, np.ndarray], found: Sequence[Searched]) -> list[list[str]]:
    """Shares by spent budget, the area under the curve, and what the searches were made of."""
    heading = [*(f"{q:.0%}" for q in QUARTERS), "area", "ended", "stopped", "answered", "s each"]
    rows = [["share of the hypervolume at", *heading]]
    for name, curve in by_arm.items():
        own = [one for one in found if one.job.arm == name]
        row = [quartiles(curve[:, round(q * STEPS) - 1]) for q in QUARTERS]
        row.append(f"{np.median(curve.mean(axis=1)):.3f}")
        for kind in ("ended", "stopped", "answered"):
            row.append(f"{statistics.median(one.counts[kind] for one in own):g}")
        rows.append([name, *row, f"{statistics.median(one.seconds for one in own):.1f}"])
    return rows


def quartiles(values: np.ndarray) -> str:
    """Median (first to third)."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def beside(by_arm: Mapping[str, np.ndarray], ours: str) -> list[list[str]]:
    """Ours beside every other arm."""
    own = by_arm[ours]
    rows = [[f"{ours} less", "at the end, 95%", "budget to its end, of medians", "over seeds"]]
    for name, other in by_arm.items():
        if name == ours:
            continue
        needed = reached(np.median(own, axis=0), float(np.median(other[:, -1])))
        each = [reached(a, b) for a, b in zip(own, other[:, -1].tolist(), strict=True)]
        rows.append([name, gap(own[:, -1] - other[:, -1]), share(needed), share(middle(each))])
    return rows


def reached(curve: np.ndarray, level: float) -> float:
    """The share of the budget at which a curve is first at a level; infinite if it never is."""
    there = np.flatnonzero(curve >= level)
    return float(there[0] + 1) / len(curve) if len(there) else float("inf")


def middle(values: Sequence[float]) -> float:
    """The median, where infinite ones may be among them."""
    return sorted(values)[len(values) // 2]


def share(value: float) -> str:
    """As text."""
    return f"{value:.1%}" if np.isfinite(value) else "not reached"


def gap(values: np.ndarray) -> str:
    """Mean and interval over seeds."""
    interval = mean_interval(values.tolist())
    if interval is None:
        return f"{values[0]:+.3f}"
    return f"{interval.value:+.3f} [{interval.lower:+.3f}, {interval.upper:+.3f}]"


def strongest(by_arm: Mapping[str, np.ndarray]) -> str:
    """The rival with the highest median at the end."""
    rivals = [name for name in by_arm if name in RIVALS or name == "random+fifo"]
    return max(rivals, key=lambda name: np.median(by_arm[name][:, -1]), default="none")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default=",".join(DESIGNS), help="which of them; default both")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--budget", type=float, default=60.0, help="in full trials; default 60")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="default: all")
    parser.add_argument(
        "--ours", help=f"which the others stand beside; default {OURS} or the first"
    )
    parser.add_argument("--answer-all", action="store_true", help="rivals pay for no duplicates")
    parser.add_argument("--quick", action="store_true", help="4 seeds, 20 full trials")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.budget = 4, 20.0
    given.ours = given.ours or (OURS if OURS in given.arms else given.arms[0])
    given.arms = list(dict.fromkeys([given.ours, *given.arms]))
    for absent in MISSING.intersection(given.arms):
        print(f"{absent} is not installed and is left out: pip install syne-tune==0.16.0")
        given.arms.remove(absent)
    return given


def main() -> None:
    given = parsed()
    kept: dict[str, Any] = {"machine": machine(), "budget": given.budget}
    for task in given.task.split(","):
        for text in given.arms:  # wrong names are said before the work starts
            arm(text, surrogate(task).config, 0)
        print(f"task {task}: {surrogate(task).config.task.name}, set-up costs "
              f"{surrogate(task).set_up:.2f} epochs, {given.seeds} seeds", flush=True)  # fmt: skip
        seeds = range(given.first, given.first + given.seeds)
        one = best(task)
        paying = {} if given.answer_all else RIVALS
        jobs = [
            Job(task, name, seed, given.budget, one, name not in paying)
            for seed in seeds
            for name in given.arms
        ]
        found = play(jobs)
        by_arm = curves(found, given.arms)
        print("\n" + table(progress(by_arm, found)) + "\n\n" + table(beside(by_arm, given.ours)))
        print(f"\nstrongest rival: {strongest(by_arm)}\n", flush=True)
        kept[task] = [vars(one) | {"job": vars(one.job)} for one in found]
        keep(given.output, kept)


if __name__ == "__main__":
    main()
