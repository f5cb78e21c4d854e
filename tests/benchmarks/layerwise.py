"""A choice for each layer against one for all, at equal bytes and equal trials.

    python tests/benchmarks/layerwise.py [--task reviews|decoder|digits|crops] [--seeds 5]
                    [--first 0] [--bits 3] [--trials 0] [--epochs 0] [--examples 2000]
                    [--output FILE]

The budget is 5% above the file of the task's targets at ``bits`` bits without adapters. For each
seed validation is cut in two halves. On the first, all uniform settings within the budget are
scored (of several at most ``trials``, evenly), and the best is taken; then as many layer-wise
trials within the bytes of that one's file: the start points from the sensitivity, measured on train
and its seconds among those told, then TPE with every suggestion repaired and filled. The second
half scores the two that were chosen. With 0 epochs nothing is trained: adapters are what the init
makes of them. The seed is of the halves, the calibration examples and the search; the dense model
is one.

Printed: for each seed both bytes and both held-out scores, and the paired difference, mean and 95%
t-interval over the seeds. Reviews need PARETUNE_REVIEWS, the wheel of
product_reviews.yaml.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measured import keep, machine, table

from analysis.stats import mean_interval

TASKS = {
    "reviews": (
        "{product_reviews: {data: %s, "
        "layers: 'bert.encoder.layer.[345].*, bert.pooler.dense, classifier'}}",
        "32",
        "adamw: {lr: [0.0003, 0.001]}",
    ),
    "decoder": ("causal_lm", "16", "adamw: {lr: [0.001, 0.003]}"),
    "digits": ("{digits: {width: 64}}", "32", "adam: {lr: [0.003, 0.01]}"),
    "crops": (
        "{imagenet_crops: {layers: 'blocks.[56].*, conv_head, classifier', crops: 40}}",
        "64",
        "adam: {lr: [0.001, 0.003]}",
    ),
}
SPACE = """
task: %s
epochs: %d
space:
  method: [{rtn: {bits: [2, 3, 4, 5, 6, 8], mode: asymmetric, group_size: 32}}]
  init: [eora]
  adapter: [none, lora]
  rank: [2, 4, 8]
  batch_size: %s
  optimizer: [{%s}]
  layerwise: {groups: %s}
"""


def config(name: str, epochs: int, groups: str, text: str = SPACE) -> Any:
    """The study's config."""
    from study.config import parse_config

    task, batch, optimizer = TASKS[name]
    if name == "reviews":
        task %= os.environ["PARETUNE_REVIEWS"]
    return parse_config(text % (task, max(1, epochs), batch, optimizer, groups))


def halves(data: Any, examples: int, seed: int) -> tuple[Any, Any]:
    """The two halves of so many examples of validation, each in the split's own order."""
    import torch

    from study.layerwise.sensitivity import Chosen

    split = data.validation
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:examples]
    parts = rows.chunk(2)
    ordered = [torch.cat([b[torch.isin(b, p)] for b in split.order(64)]) for p in parts]
    return Chosen(split, ordered[0]), Chosen(split, ordered[1])


class Bench:
    """One seed: trials on the first half, scores on the second."""

    text = SPACE

    def __init__(self, name: str, epochs: int, examples: int, seed: int, data: Any) -> None:
        from dataclasses import replace

        from trainables.calibration import calibrated

        self.name, self.epochs, self.seed = name, epochs, seed
        first, self.held_out = halves(data, examples, seed)
        self.task = self.config("each").task
        self.data = replace(calibrated(data, 256, seed), validation=first)
        self.folder = tempfile.TemporaryDirectory()

    def config(self, groups: str) -> Any:
        """The study's config, with these groups."""
        return config(self.name, self.epochs, groups, self.text)

    def asked(self, space: Any, params: Any) -> Any:
        """The trial of a suggestion; of 0 epochs, one that trains nothing."""
        from trainables.record import Trial

        trial = space.to_trial(params, self.seed)
        return trial if self.epochs else Trial(trial.task, trial.layers, seed=self.seed)

    def record(self, trial: Any) -> Any:
        """Run a trial to its end."""
        from study.store.storage import Storage
        from trainables.attempt import Attempt
        from trainables.record import Origin, Record

        attempt = Attempt(self.task, self.data, trial, Storage.open(self.folder.name))
        while not attempt.finished:
            attempt.advance()
        if attempt.outcome.error:
            raise RuntimeError(attempt.outcome.error)
        return Record(trial, attempt.outcome, Origin(self.data.fingerprint))

    def loss(self, record: Any) -> tuple[float, float]:
        """The primary metric so that smaller is better, then the loss: by what is chosen."""
        val = record.outcome.metrics["val"]
        return self.task.objective.loss(val[self.task.metric]), val.get("loss", 0.0)

    def score(self, record: Any) -> float:
        """The primary metric of a trial's file on the second half."""
        from compression.artifact import load
        from trainables.features import features_of
        from trainables.tasks.base import observe

        path = f"{self.folder.name}/{record.trial_id}.safetensors"
        model = load(path, self.task.architecture())
        forward, split = features_of(self.task, self.data.model, model, self.held_out)
        return float(
            self.task.score(observe(self.task, forward, split), split.labels)[self.task.metric]
        )

    def uniform(self, bits: int, most: int) -> tuple[list[Any], int]:
        """All uniform settings within the budget, and the budget."""
        from study.layerwise.settings import evenly
        from study.layerwise.sizes import Sizes
        from study.space.params import corners_of

        space = self.config("{all: '*'}").search_space()
        sizes = Sizes(space, self.task, self.data)
        every = corners_of(list(space.params.items()), {})
        asked = [(params, self.asked(space, params)) for params in every]
        plain = {"method": "rtn", "rtn.bits": bits, "adapter": "none"}
        (group,) = space.groups
        flat = {f"{group.prefix}{key}": value for key, value in plain.items()}
        first = next(t for p, t in asked if flat.items() <= p.items())
        budget = round(1.05 * sizes.file_bytes(first))
        fitting = [t for t in {t: None for _, t in asked} if sizes.file_bytes(t) <= budget]
        chosen = [fitting[i] for i in evenly(len(fitting), most or len(fitting))]
        return [self.record(trial) for trial in chosen], budget

    def layerwise(self, most_bytes: int, trials: int) -> tuple[list[Any], float]:
        """So many trials of a layer-wise search, and the seconds of its sensitivity."""
        from study.layerwise.repair import Repair
        from study.layerwise.sensitivity import measured
        from study.layerwise.settings import Settings
        from study.layerwise.sizes import Sizes
        from study.layerwise.starts import starts
        from study.loop.search import StudySearch
        from study.objectives import aims
        from study.searchers import SEARCHERS

        space = self.config("each").search_space()
        found = measured(space, self.task, self.data, 256, self.seed)
        settings = Settings(space, Sizes(space, self.task, self.data), found.growths)
        search = StudySearch(
            SEARCHERS.build("tpe", {"startup": max(2, trials // 2)}),
            space,
            aims(self.task, None),
            self.seed,
            starts=starts(settings, max(1, trials // 2), most_bytes),
            repair=Repair(settings, most_bytes, fill=True),
        )
        records: dict[str, Any] = {}
        for number in range(20 * trials):
            if len(records) == trials or (params := search.ask(number)) is None:
                break
            trial = self.asked(space, params)
            name = trial.trial_id(self.data.fingerprint)
            if name not in records:
                records[name] = self.record(trial)
            search.tell(number, records[name])
        return list(records.values()), found.seconds

    def run(self, bits: int, most: int) -> dict[str, Any]:
        """Both, chosen on the first half and scored on the second."""
        begun = time.perf_counter()
        uniform, budget = self.uniform(bits, most)
        one = min(uniform, key=self.loss)
        middle = time.perf_counter()
        several, seconds = self.layerwise(one.outcome.size.file_bytes, len(uniform))
        fitting = [r for r in several if r.outcome.size.file_bytes <= one.outcome.size.file_bytes]
        many = min(fitting, key=self.loss)
        return {
            "seed": self.seed,
            "budget": budget,
            "trials": [len(uniform), len(fitting)],
            "bytes": [r.outcome.size.file_bytes for r in (one, many)],
            "held_out": [self.score(r) for r in (one, many)],
            "uniform": str(one.trial.layers[0]),
            "layers": [str(rule) for rule in many.trial.layers],
            "seconds": [middle - begun, time.perf_counter() - middle, seconds],
        }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="reviews")
    numbers = {"seeds": 5, "first": 0, "bits": 3, "trials": 0, "epochs": 0, "examples": 2000}
    for option, default in numbers.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    given = parser.parse_args()
    task = config(given.task, given.epochs, "each").task
    data = task.prepare(0)
    data.model.eval()
    cells = []
    for seed in range(given.first, given.first + given.seeds):
        bench = Bench(given.task, given.epochs, given.examples, seed, data)
        cells.append(bench.run(given.bits, given.trials))
        print({k: v for k, v in cells[-1].items() if k != "layers"}, flush=True)
        keep(given.output, {"machine": machine(), **vars(given), "output": "", "cells": cells})
    print(table(rows(cells)))
    print(f"layer-wise less uniform, {task.metric}: {gap(cells)}")


def gap(cells: list[dict[str, Any]]) -> str:
    """The paired difference of the held-out scores, with its 95% interval over the seeds."""
    gaps = [cell["held_out"][1] - cell["held_out"][0] for cell in cells]
    interval = mean_interval(gaps)
    between = f" ({interval.lower:+.4f} to {interval.upper:+.4f})" if interval else ""
    return f"{statistics.mean(gaps):+.4f}{between}"


def rows(cells: list[dict[str, Any]]) -> list[list[str]]:
    """A row a seed."""
    head = ["seed", "trials", "bytes", "layer-wise bytes", "held-out", "layer-wise", "seconds"]
    return [head] + [
        [
            str(c["seed"]),
            str(c["trials"][0]),
            *map(str, c["bytes"]),
            *(f"{score:.4f}" for score in c["held_out"]),
            " + ".join(f"{s:.0f}" for s in c["seconds"][:2]),
        ]
        for c in cells
    ]


if __name__ == "__main__":
    main()
