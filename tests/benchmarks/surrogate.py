"""A task as a function: what a setting's trial would report, by forests over the recorded ones.

    python tests/benchmarks/surrogate.py [--task a,b] [--folds 5]

Printed is how well it foretells trials that it has not seen, by cross-validation: R2 and Spearman's
rank correlation of the metric after the first, the middle and the last epoch, of its best, of log2
of the ratio and of the seconds of an epoch.

A recorded setting's trial comes out as it was recorded, its pace apart. Between them it is a mean
over extremely randomised trees (Geurts et al. 2006), each of which names the recorded trial that
shares the leaf. As task, `a/nearest` stands for the recorded trial that is nearest in place of that
mean: a searcher that fits forests itself is not to gain by the likeness.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from measured import table
from record_curves import DESIGNS, FILE, Recorded, load
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from compression.registry import Scalar, Values
from study.space.space import Space

TREES = 64
MISSING_VALUE = -1e3  # below all values
SHARED = 20  # trials of a leaf, where single ones are noise
AT_ONCE = 500  # settings, to bound memory
Params = Mapping[str, Scalar]


@dataclass(frozen=True)
class Foretold:
    """A trial as the simulator plays it.

    ``metric`` is by epoch, 0 to the last; ``set_up`` and ``epoch`` are costs, in epochs of the
    task's median trial. ``fails_in`` is the epoch in which it breaks off, if it does.
    """

    metric: tuple[float, ...]
    file_bytes: int
    dense_bytes: int
    macs: int
    set_up: float
    epoch: float
    fails_in: int | None = None

    @property
    def log2_ratio(self) -> float:
        """log2 of the dense model's bytes by these."""
        return math.log2(self.dense_bytes / self.file_bytes)


class Features:
    """Flat, conditional suggestions as rows of numbers.

    A column for each name that a knob may be, one for each numeric knob (its log where the space
    says so), and one for each last word of several knobs' keys, so that ``rtn.bits`` and
    ``gptq.bits`` are near each other. What a suggestion lacks lies below all values.
    """

    def __init__(self, space: Space) -> None:
        keys: list[str] = []
        self._logs = {k for k, p in space.params.items() if getattr(p.domain, "log", False)}
        for key, param in space.params.items():
            if len(param.corners()) == 1 and not param.when:
                continue
            names = param.domain.values if isinstance(param.domain, Values) else ()
            words = [f"={name}" for name in names if isinstance(name, str)] or [""]
            keys += [key + word for word in words]
            keys += [key.rpartition(".")[2] + word for word in words]
        self._places = {key: place for place, key in enumerate(dict.fromkeys(keys))}

    def rows(self, settings: Sequence[Params]) -> np.ndarray:
        """(n, columns) float32."""
        found = np.full((len(settings), len(self._places)), MISSING_VALUE, np.float32)
        for row, params in zip(found, settings, strict=True):
            for key, value in params.items():
                word, number = (f"={value}", 1.0) if isinstance(value, str) else ("", float(value))
                number = math.log(number) if key in self._logs else number
                for name in (key, key.rpartition(".")[2]):
                    if (place := self._places.get(name + word)) is not None:
                        row[place] = number
        return found


class Forest:
    """Extremely randomised trees as arrays: a single prediction takes a fraction of 1 ms."""

    def __init__(self, x: np.ndarray, y: np.ndarray, least: int = 1) -> None:
        forest = ExtraTreesRegressor(TREES, min_samples_leaf=least, random_state=0)
        scale = np.maximum(y.std(axis=0), 1e-12)  # no column outweighs the others
        fitted = forest.fit(x, np.squeeze(y / scale))
        parts = [estimator.tree_ for estimator in fitted.estimators_]
        starts = np.cumsum([0, *(part.node_count for part in parts)])
        self._roots = starts[:-1]
        self._feature = np.concatenate([part.feature for part in parts])
        self._threshold = np.concatenate([part.threshold for part in parts])
        leaf = self._feature < 0
        children = []
        for side in ("children_left", "children_right"):
            ids = [getattr(p, side) + at for p, at in zip(parts, starts[:-1], strict=True)]
            children.append(np.where(leaf, np.arange(starts[-1]), np.concatenate(ids)))
        self._children = np.stack(children, axis=1)  # a leaf is its own child
        self._feature = np.maximum(self._feature, 0)
        self._values = np.concatenate([part.value[:, :, 0] for part in parts]) * scale
        self._depth = max(part.max_depth for part in parts)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, columns) to (n, outputs): the mean over the trees."""
        at = np.broadcast_to(self._roots, (len(x), len(self._roots)))
        rows = np.arange(len(x))[:, None]
        for _ in range(self._depth):
            right = x[rows, self._feature[at]] > self._threshold[at]
            at = self._children[at, right.astype(np.intp)]
        return self._values[at].mean(axis=1)


class Nearest:
    """The recorded trial that is nearest: no model, and none of the kind that a searcher fits.

    Nearest by the sum over columns of the distance, each column scaled to [0, 1]; what one setting
    lacks and the other has is 1 apart.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, least: int = 1) -> None:
        there = x > MISSING_VALUE
        self._low = np.where(there, x, np.inf).min(axis=0, initial=np.inf)
        high = np.where(there, x, -np.inf).max(axis=0, initial=-np.inf)
        self._low = np.where(there.any(axis=0), self._low, 0.0)
        self._span = np.where(high > self._low, high - self._low, 1.0)
        self._x, self._y = self._scaled(x), y

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, columns) to (n, outputs)."""
        return self._y[cdist(self._scaled(x), self._x, "cityblock").argmin(axis=1)]

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        inside = np.clip((x - self._low) / self._span, 0.0, 1.0)
        return np.where(x > MISSING_VALUE, inside, -1.0)


KINDS = {"forest": Forest, "nearest": Nearest}


class Learnt:
    """Forests over recorded rows, each for what depends on other knobs.

    ``training``: whether it failed, the epochs that it lasted, and the metric by epoch (the last
    one goes on where there are no more). ``size``: log of the bytes beside the adapter's,
    multiply-adds. ``adapter``: its bytes. ``pace``: seconds of an epoch, from leaves of many
    trials, as a single one says more of what else the machine did.
    """

    def __init__(
        self,
        features: Features,
        rows: Sequence[Mapping[str, Any]],
        epochs: int,
        kind: str = "forest",
    ) -> None:
        model = KINDS[kind]
        x = features.rows([row["params"] for row in rows])
        sized = [row["file_bytes"] is not None for row in rows]
        trained = [len(row["seconds"]) > 1 for row in rows]
        self._features = features
        self._training = model(x, np.array([training(row, epochs) for row in rows]))
        sizes = np.array([size(row) for row, kept in zip(rows, sized, strict=True) if kept])
        self._size, self._adapter = model(x[sized], sizes[:, :2]), model(x[sized], sizes[:, 2:])
        paces = [[pace(row)] for row, kept in zip(rows, trained, strict=True) if kept]
        self._pace = model(x[trained], np.array(paces), SHARED)

    def __call__(self, settings: Sequence[Params]) -> np.ndarray:
        """A row a setting: failed, lasted, pace, file bytes, multiply-adds, metric by epoch."""
        x = self._features.rows(settings)
        size, trained = self._size(x), self._training(x)
        file = np.exp(size[:, :1]) + self._adapter(x)
        return np.hstack([trained[:, :2], self._pace(x), file, size[:, 1:], trained[:, 2:]])


def training(row: Mapping[str, Any], epochs: int) -> list[float]:
    """What is learnt of a recorded trial's course."""
    metric, last = row["metric"], len(row["metric"]) - 1
    return [row["failed"], last, *(metric[min(epoch, last)] for epoch in range(epochs + 1))]


def size(row: Mapping[str, Any]) -> list[float]:
    """What is learnt of its size."""
    own = row["adapter_bytes"]
    return [math.log(row["file_bytes"] - own), row["macs"], own]


def pace(row: Mapping[str, Any]) -> float:
    """Median seconds of its epochs."""
    return float(np.median(np.diff(row["seconds"])))


class Surrogate:
    """What trials of a task come to. Trials without an adapter end at epoch 0, as real ones do."""

    def __init__(self, recorded: Recorded, kind: str = "forest") -> None:
        self.recorded, self.config = recorded, recorded.config
        self.space, self.epochs = recorded.config.search_space(), recorded.config.epochs
        rows = recorded.rows
        self.settings: list[Params] = [row["params"] for row in rows]
        self._learnt = Learnt(Features(self.space), rows, self.epochs, kind)
        self.unit = statistics.median(pace(row) for row in rows if len(row["seconds"]) > 1)
        begun = statistics.median(row["seconds"][0] for row in rows)
        self.set_up = (begun + recorded.overhead) / self.unit

    def foretell(self, settings: Sequence[Params]) -> list[Foretold]:
        """A trial for each setting."""
        found: list[Foretold] = []
        for start in range(0, len(settings), AT_ONCE):
            some = settings[start : start + AT_ONCE]
            found += [self._foretold(*pair) for pair in zip(some, self._learnt(some), strict=True)]
        return found

    def __call__(self, params: Params) -> Foretold:
        """The trial of one setting."""
        return self.foretell([params])[0]

    def _foretold(self, params: Params, learnt: np.ndarray) -> Foretold:
        last = 0 if params["adapter"] == "none" else self.epochs
        fails, lasted, pace, file_bytes, macs, *metric = learnt.tolist()
        return Foretold(
            tuple(metric[: last + 1]),
            round(file_bytes),
            self.recorded.dense_bytes,
            round(macs),
            self.set_up,
            pace / self.unit,
            int(lasted) + 1 if fails > 0.5 and last else None,
        )


@lru_cache
def surrogate(task: str) -> Surrogate:
    """The one that every arm plays against, fitted once a process: of `a`, or of `a/nearest`."""
    name, _, kind = task.partition("/")
    return Surrogate(load(name), kind or "forest")


@dataclass(frozen=True)
class Quality:
    """How well unseen trials are foretold."""

    r2: float
    spearman: float


def held_out(recorded: Recorded, folds: int = 5) -> dict[str, Quality]:
    """By cross-validation over the trials that did not fail."""
    rows = [row for row in recorded.rows if not row["failed"]]
    epochs, features = recorded.config.epochs, Features(recorded.config.search_space())
    foretold = np.empty((len(rows), epochs + 6))
    for seen, unseen in KFold(folds, shuffle=True, random_state=0).split(rows):
        learnt = Learnt(features, [rows[i] for i in seen], epochs)
        foretold[unseen] = learnt([rows[i]["params"] for i in unseen])
    course = np.array([training(row, epochs)[2:] for row in rows])
    trained = np.array([len(row["seconds"]) > 1 for row in rows])
    paces = np.array([pace(row) for row in rows if len(row["seconds"]) > 1])
    ratios = np.array([row["log2_ratio"] for row in rows])
    found = {
        f"metric, epoch {epoch}": quality(course[:, epoch], foretold[:, 5 + epoch])
        for epoch in (0, epochs // 2, epochs)
    }
    found["metric, best"] = quality(course.max(axis=1), foretold[:, 5:].max(axis=1))
    dense = math.log2(recorded.dense_bytes)
    found["log2 ratio"] = quality(ratios, dense - np.log2(foretold[:, 3]))
    return found | {"seconds of an epoch": quality(paces, foretold[trained, 2])}


def quality(true: np.ndarray, foretold: np.ndarray) -> Quality:
    """Of one column."""
    return Quality(r2_score(true, foretold), float(spearmanr(true, foretold).statistic))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default=",".join(DESIGNS), help="which of them")
    parser.add_argument("--folds", type=int, default=5)
    given = parser.parse_args()
    for task in given.task.split(","):
        recorded = load(task, FILE)
        rows: list[list[Any]] = [[f"task {task}", "R2", "Spearman"]]
        found = held_out(recorded, given.folds)
        rows += [[name, f"{q.r2:.3f}", f"{q.spearman:.3f}"] for name, q in found.items()]
        print(table(rows))
        model = surrogate(task)
        began = time.process_time()
        for params in model.settings[:200]:
            model(params)
        print(f"one prediction: {(time.process_time() - began) / 200 * 1e3:.2f} ms\n")


if __name__ == "__main__":
    main()
