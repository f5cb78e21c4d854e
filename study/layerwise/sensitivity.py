"""What it costs the model when one group of layers alone is compressed: measured, not trained.

On calibration examples of train, with everything else dense: by how much the loss grows, or how far
the outputs move.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compression.allocation import Measure
from compression.model import as_saved
from compression.registry import InvalidSetting, naming
from study.errors import StudyError
from study.layerwise.settings import Growths, Rules, corners, effect, evenly
from study.layerwise.space import LayerwiseSpace
from study.store import sealed
from study.store.storage import Storage
from trainables import features
from trainables.build import build
from trainables.calibration import calibrated
from trainables.record import LayerRule, Trial, from_json, to_json
from trainables.serial import digest
from trainables.splits import Inputs, Split
from trainables.tasks import Prepared, Task

FILES: Mapping[Measure, str] = {"growth": "sensitivity.json", "distortion": "distortion.json"}
MOST = 200  # models that are measured, over all groups
LEAST = 4  # of each group
BATCH = 64
_REMEDY = "delete it, and it is measured anew"


@dataclass(frozen=True)
class Sensitivity:
    """The dense model's own value, how much it grows by group and effect, and what that took.

    The value is the loss, or the distance of the outputs from the dense model's.
    """

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
    measure: Measure = "growth",
) -> Sensitivity:
    """As the study's folder has it; measured and kept there, where it has none.

    Raises:
        StudyError: the file there is damaged.
    """
    file = FILES[measure]
    known = sealed.read(storage, file, _REMEDY)
    if known is not None:
        return _parsed(known, f"{storage}/{file}")
    found = measured(space, task, data, samples, seed, measure)
    sealed.write(storage, file, found.to_json())
    models = sum(map(len, found.growths.values()))
    say(
        f"{NAMES[measure]} of {len(space.groups)} groups: {models} models on {found.examples} "
        f"examples of train in {found.seconds:.1f} s"
    )
    return found


def _parsed(data: Mapping[str, Any], source: str) -> Sensitivity:
    try:
        growths = {
            name: {_rules(one["rules"]): float(one["growth"]) for one in found}
            for name, found in data["groups"].items()
        }
        own = (float(data["dense"]), growths, int(data["examples"]), float(data["seconds"]))
        return Sensitivity(*own)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{source} is damaged ({error}); {_REMEDY}") from error


def _rules(data: list[Mapping[str, object]]) -> Rules:
    return tuple(from_json(LayerRule, rule) for rule in data)


def measured(
    space: LayerwiseSpace,
    task: Task,
    data: Prepared,
    samples: int,
    seed: int,
    measure: Measure = "growth",
) -> Sensitivity:
    """Measure every group at so many of its settings as :data:`MOST` leaves it.

    Args:
        space: layer-wise.
        task: of the model.
        data: the dense model and train.
        samples: examples of train, where none were chosen for calibration.
        seed: of their choice, and of what inits draw.
        measure: of what.
    """
    data = with_examples(data, samples, seed)
    started = time.perf_counter()
    share = max(LEAST, MOST // len(space.groups))
    loss = SCORES[measure](task, data)
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
                raise InvalidSetting([f"the {NAMES[measure]} is not finite at any setting"])
        growths[group.name] = own
    return Sensitivity(dense, growths, len(loss.split), time.perf_counter() - started)


def with_examples(data: Prepared, samples: int, seed: int) -> Prepared:
    """With calibration examples; those chosen for this alone are unknown to trials."""
    if data.calibration is not None:
        return data
    return replace(calibrated(data, samples, seed), fingerprint=data.fingerprint)


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
        for index, (outputs, labels) in enumerate(self._outputs(model)):
            total += self._of_batch(index, outputs, labels) * len(labels)
        return total / len(self.split)

    def _of_batch(self, index: int, outputs: Tensor, labels: Tensor) -> float:
        """The mean over a batch."""
        return float(self._loss(outputs, labels))

    def _outputs(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each batch, with its labels."""
        with as_saved(model):
            forward = self._forward_of(model)
            for batch in self.split.batches(BATCH):
                yield forward(batch.inputs), batch.labels


class Distortion(Loss):
    """``E ||f(x) - f'(x)||^2`` of a model's outputs f' from the dense one's, on the same examples.

    The squares of one example are summed over its outputs.
    """

    def __init__(self, task: Task, data: Prepared) -> None:
        super().__init__(task, data)
        with torch.inference_mode():
            self._dense = [outputs for outputs, _ in self._outputs(data.model)]

    def _of_batch(self, index: int, outputs: Tensor, labels: Tensor) -> float:
        difference = outputs.double() - self._dense[index].double()
        return float(difference.square().flatten(1).sum(1).mean())


SCORES: Mapping[Measure, type[Loss]] = {"growth": Loss, "distortion": Distortion}
NAMES: Mapping[Measure, str] = {"growth": "sensitivity", "distortion": "output distortion"}


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
