"""What it costs the model when one group of layers alone is compressed: measured, not trained.

The loss on calibration examples of train, with everything else dense, minus the dense model's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compression.model import as_saved
from compression.registry import InvalidSetting, naming
from study.errors import StudyError
from study.layerwise.settings import Growths, Rules, corners, effect, evenly
from study.layerwise.space import LayerwiseSpace
from study.storage import Storage
from trainables import features
from trainables.build import build
from trainables.calibration import calibrated
from trainables.record import LayerRule, Trial, from_json, to_json
from trainables.serial import digest
from trainables.splits import Inputs, Split
from trainables.tasks import Prepared, Task

FILE = "sensitivity.json"
MOST = 200  # models that are measured, over all groups
LEAST = 4  # of each group
BATCH = 64


@dataclass(frozen=True)
class Sensitivity:
    """The dense model's loss, how much it grows by group and effect, and what that took."""

    dense: float
    growths: Growths
    examples: int
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        groups = {
            name: [{"rules": to_json(rules), "growth": growth} for rules, growth in found.items()]
            for name, found in self.growths.items()
        }
        own = {"dense": self.dense, "examples": self.examples, "seconds": round(self.seconds, 2)}
        return {**own, "groups": groups}


def sensitivity(
    space: LayerwiseSpace,
    task: Task,
    data: Prepared,
    samples: int,
    seed: int,
    storage: Storage,
    say: Callable[[str], None],
) -> Sensitivity:
    """As the study's folder has it; measured and kept there, where it has none.

    Raises:
        StudyError: the file there is damaged.
    """
    if storage.exists(FILE):
        return _read(storage.read_text(FILE), storage)
    found = measured(space, task, data, samples, seed)
    storage.write_text(FILE, json.dumps(found.to_json(), indent=1) + "\n")
    models = sum(map(len, found.growths.values()))
    say(
        f"sensitivity of {len(space.groups)} groups: {models} models on {found.examples} examples "
        f"of train in {found.seconds:.1f} s"
    )
    return found


def _read(text: str, storage: Storage) -> Sensitivity:
    try:
        data = json.loads(text)
        growths = {
            name: {_rules(one["rules"]): float(one["growth"]) for one in found}
            for name, found in data["groups"].items()
        }
        own = (float(data["dense"]), growths, int(data["examples"]), float(data["seconds"]))
        return Sensitivity(*own)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        where = f"{FILE} in {storage} is damaged ({error})"
        raise StudyError(f"{where}; delete it, and it is measured anew") from error


def _rules(data: list[Mapping[str, object]]) -> Rules:
    return tuple(from_json(LayerRule, rule) for rule in data)


def measured(
    space: LayerwiseSpace, task: Task, data: Prepared, samples: int, seed: int
) -> Sensitivity:
    """Measure every group at so many of its settings as :data:`MOST` leaves it.

    Args:
        space: layer-wise.
        task: of the model.
        data: the dense model and train.
        samples: examples of train, where none were chosen for calibration.
        seed: of their choice, and of what inits draw.
    """
    if data.calibration is None:  # chosen for this alone: trials know nothing of it
        data = replace(calibrated(data, samples, seed), fingerprint=data.fingerprint)
    started = time.perf_counter()
    share = max(LEAST, MOST // len(space.groups))
    loss = Loss(task, data)
    dense = loss(data.model)
    growths: dict[str, dict[Rules, float]] = {}
    for group in space.groups:
        wanted = {
            effect(space.group_rules(group, values)): None for values in corners(space, group)
        }
        several, own = list(wanted), dict[Rules, float]()
        with naming(f"layerwise.groups.{group.name}"):
            for rules in (several[i] for i in evenly(len(several), share)):
                value = loss(build(task, data, Trial(space.task, rules, seed=seed)))
                if math.isfinite(value):
                    own[rules] = value - dense
            if not own:
                raise InvalidSetting(["the loss is not finite at any setting"])
        growths[group.name] = own
    return Sensitivity(dense, growths, len(loss.split), time.perf_counter() - started)


class Loss:
    """The training loss of a model on the calibration examples."""

    def __init__(self, task: Task, data: Prepared) -> None:
        if data.calibration is None:
            raise ValueError("no calibration examples were chosen")
        split = Chosen(data.train, data.calibration)
        few = replace(data, train=split, validation=split)
        # What no group changes is computed once for all of them.
        stage = features.stage(task, few, data.model, training=False)
        self.split, self._forward_of = stage.validation, stage.forward_of
        self._loss = task.training_loss(data.train.labels)

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> float:
        """The mean over the examples, as the model would be saved."""
        total = 0.0
        with as_saved(model):
            forward = self._forward_of(model)
            for batch in self.split.batches(BATCH):
                total += float(self._loss(forward(batch.inputs), batch.labels)) * len(batch.labels)
        return total / len(self.split)


class Chosen(Split):
    """Some rows of a split, in this order."""

    def __init__(self, base: Split, rows: Tensor) -> None:
        self.base, self.rows, self.labels = base, rows, base.labels[rows]

    @property
    def digest(self) -> str:
        """See :class:`Split`."""
        return digest([self.base.digest, str(self.rows.tolist())])

    def inputs(self, rows: Tensor) -> Inputs:
        """See :class:`Split`."""
        return self.base.inputs(self.rows[rows])
