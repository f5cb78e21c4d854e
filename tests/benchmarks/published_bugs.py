"""What the published errors of LoRA-Compression cost, measured on tasks that need no download.

    python tests/benchmarks/published_bugs.py [--tasks a,b] [--first 0] [--seeds 5] [--trials 60]
                                              [--claim-only] [--results FOLDER]

Claim: for each point of the study as published some corrected point, chosen on validation among as
many trials, has no more bytes, and the one-sided 95% bound of its paired difference in accuracy on
test is at least -0.5 points. A point is the best by validation of a cell (method, rank, init).

For each task and seed (which draws split, training and search anew) six studies with the same
ranks, alphas, optimizers, batches, epochs, random search and no early stopping: as published and
corrected with ``--trials`` each, and the corrected one with each error alone, with half as many,
being over half of the cells: signs without scale, tiles of 1x16, the largest by signed value, a
delta of alpha B A. All but the first store the adapter in half precision, which pays for the bytes
of scales: in single precision nothing corrected is as small as signs of the smallest rank.

After the last study of a seed each chosen model is loaded from its file and scored on test, once;
the scores stay in the folder and the models go. What is finished there is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from measured import ROOT, command, run
from published_bugs_scores import Point, best_of_cells, claim_table, counterpart, errors_table

from analysis.load import load_study
from compression.artifact import deserialize
from study.store.files import artifact
from trainables.features import features_of
from trainables.record import Choice, Record, Status
from trainables.tasks import TASKS
from trainables.tasks.base import observe

TASKS_OF: dict[str, dict[str, Any]] = {
    "digits": {"task": "digits", "rank": [2, 4, 8]},  # at rank 1 alpha / r is alpha
    "mnist5k": {"task": "mnist5k", "rank": [2, 4, 8]},
    "imagenet_crops": {
        "task": {"imagenet_crops": {"layers": "classifier", "crops": 40}},
        "rank": [4, 16, 64],
    },
}
HALF = {"dtype": ["float16"]}


def _space(name: str) -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "study" / "configs" / f"{name}.yaml").read_text())
    space: dict[str, Any] = config["space"]
    return space


def _tiles(**knobs: list[Any]) -> list[Any]:
    """The method block_sparse alone, corrected but for these knobs."""
    (corrected,) = (m for m in _space("lora_compression")["method"] if "block_sparse" in m)
    return [{"block_sparse": corrected["block_sparse"] | knobs}]


CLAIM = ("as published", "corrected")


def arms() -> dict[str, dict[str, Any]]:
    """The spaces by name: as published, corrected, and corrected but for one error."""
    right = _space("lora_compression") | {"adapter": [{"lora": HALF}]}
    return {
        "as published": _space("lora_compression_as_published"),
        "corrected": right,
        "sign": right | {"method": ["sign"]},
        "1x16": right | {"method": _tiles(tile_rows=[1], tile_cols=[16])},
        "signed": right | {"method": _tiles(largest=["signed"])},
        "alpha": right | {"init": ["paper"], "adapter": [{"lora": HALF | {"scaling": ["alpha"]}}]},
    }


class Seed:
    """The studies of one task and seed, in a folder of their own."""

    def __init__(
        self, task: str, seed: int, trials: int, folder: Path, claim_only: bool = False
    ) -> None:
        self.task, self.seed, self.trials = task, seed, trials
        self.arms = {n: space for n, space in arms().items() if n in CLAIM or not claim_only}
        self.folder = folder / f"{task}-{trials}-{seed}"
        self.file = self.folder / "scores.json"

    def scores(self) -> dict[str, Any]:
        """All trials, and which test examples the chosen ones have right; read if on file."""
        if not self.file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            for arm, space in self.arms.items():
                self._study(arm, space)
            # Written under another name first: what is there is whole.
            unfinished = self.file.with_suffix(".part")
            unfinished.write_text(json.dumps(self._measured()) + "\n")
            unfinished.rename(self.file)
            for arm in self.arms:
                shutil.rmtree(self._place(arm) / "artifacts")
        scores: dict[str, Any] = json.loads(self.file.read_text())
        return scores

    def _place(self, arm: str) -> Path:
        return self.folder / "results" / arm.replace(" ", "_")

    def _study(self, arm: str, space: dict[str, Any]) -> None:
        place, own = self._place(arm), TASKS_OF[self.task]
        if (place / "report" / "summary.md").exists():
            return
        settings = {
            "task": own["task"],
            "seed": self.seed,
            "trials": self.trials if arm in CLAIM else self.trials // 2,
            "epochs": 10,
            "searcher": "random",
            "scheduler": "fifo",
            "keep": {"margin": "100pp"},  # every model: cells are chosen when all is done
            "space": space | {"rank": own["rank"]},
        }
        file = self.folder / f"{place.name}.yaml"
        file.write_text(yaml.safe_dump(settings))
        words = ["--config", file.name, "--name", place.name, "--quiet"]
        words += ["--tracking-uri", f"sqlite:///{self.folder.resolve()}/mlflow.db"]
        run(command("study.run", *words, *(["--resume"] if place.exists() else [])), self.folder)

    def _measured(self) -> dict[str, Any]:
        found: dict[str, list[Point]] = {}
        ended: dict[str, tuple[int, int]] = {}
        for arm in self.arms:
            records = self._records(arm)
            completed = [r for r in records if r.outcome.status is Status.COMPLETED]
            found[arm] = [_point(record) for record in completed]
            ended[arm] = (len(records), len(records) - len(completed))
        right, groups = self._right(found)
        points = {arm: [p.__dict__ for p in points] for arm, points in found.items()}
        return {"points": points, "ended": ended, "right": right, "groups": groups}

    def _records(self, arm: str) -> list[Record]:
        study = load_study(str(self._place(arm)))
        return [row.record for row in study.rows if row.role == "search"]

    def _right(self, found: dict[str, list[Point]]) -> tuple[dict[str, str], list[int] | None]:
        """Test examples that each chosen model has right, as 0s and 1s; and their groups."""
        named = TASKS_OF[self.task]["task"]
        choice = Choice(named) if isinstance(named, str) else Choice(*next(iter(named.items())))
        task = TASKS.build(choice.name, choice.args)
        data, test = task.prepare(self.seed), task.test(self.seed)
        right = {}
        for arm, point in dict.fromkeys(_chosen(found)):
            file = (self._place(arm) / artifact(point.trial_id)).read_bytes()
            model = deserialize(file, task.architecture())
            observed = observe(task, *features_of(task, data.model, model, test))
            correct = task.correct(observed, test.labels)
            if correct is None:
                raise TypeError(f"{task.name}: examples are not right or wrong")
            right[point.trial_id] = "".join(str(int(one)) for one in correct)
        return right, None if test.groups is None else test.groups.tolist()


def _point(record: Record) -> Point:
    (rule,), outcome = record.trial.layers, record.outcome
    if outcome.size is None:
        raise ValueError(f"{record.trial_id}: completed without a size")
    return Point(
        "sparse" if rule.methods[0].name == "block_sparse" else "int1",
        rule.rank,
        rule.init.name,
        record.trial_id,
        outcome.metrics["val"][TASKS.build(record.trial.task.name, record.trial.task.args).metric],
        outcome.size.file_bytes,
    )


def _chosen(found: dict[str, list[Point]]) -> Iterator[tuple[str, Point]]:
    """Whom test is read for: the best of each cell, and what is held against those published."""
    for arm, points in found.items():
        yield from ((arm, point) for point in best_of_cells(points).values())
    for point in best_of_cells(found["as published"]).values():
        if other := counterpart(point, found["corrected"]):
            yield "corrected", other


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {"first": 0, "seeds": 5, "trials": 60}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--tasks", default=",".join(TASKS_OF), help="which of them")
    parser.add_argument("--claim-only", action="store_true", help="no study of single errors")
    parser.add_argument("--results", type=Path, default=Path("results/published_bugs"))
    given = parser.parse_args(arguments)
    scores: dict[str, list[dict[str, Any]]] = {}
    for task in given.tasks.split(","):
        for seed in range(given.first, given.first + given.seeds):
            scores.setdefault(task, []).append(
                Seed(task, seed, given.trials, given.results, given.claim_only).scores()
            )
            print(f"{task}, seed {seed}: done", flush=True)
    print(f"\n{claim_table(scores)}")
    if not given.claim_only:
        print(f"\n{errors_table(scores)}")


if __name__ == "__main__":
    main()
