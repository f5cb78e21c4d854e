"""What a task is: a pretrained model, its data, and how it is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from compression.registry import Plugin, Registry
from trainables.hardware.sending import send_tensor
from trainables.record import Choice, Direction, Fingerprint, Objective, Subject
from trainables.scoring import metrics
from trainables.splits import Inputs, Split


@dataclass(frozen=True)
class Prepared:
    """What search workers get: the dense model and the data they may see. No test split.

    ``calibration`` are the rows of train that methods and inits may look at, (k,) int64, where some
    of the study have to (:mod:`trainables.calibration`).
    """

    model: nn.Module
    train: Split
    validation: Split
    fingerprint: Fingerprint
    calibration: Tensor | None = None


class Task(Plugin, ABC):
    """A pretrained model with data splits, a primary metric and target layers.

    ``targets`` are patterns over full module names: the layers a study may compress. ``chance`` is
    the primary metric of a model that knows nothing, the worst corner of the hypervolume.
    ``untie`` lets targets that share their weight be compressed apart from it.
    """

    targets: tuple[str, ...] = ("*",)
    untie: bool = False
    eval_batch_size: ClassVar[int] = 1024
    """Examples to a batch where nothing is trained."""

    @property
    def objective(self) -> Objective:
        """The primary metric: its name in :meth:`score`, which way it is better, its unit.

        With the unit ``fraction`` it is shown in percent and a margin counts points of it; with any
        other it is shown as it is and a margin is a share of the value it is held against.
        """
        return Objective("accuracy", Direction.MAXIMIZE, "fraction")

    @property
    def metric(self) -> str:
        """The primary metric's name."""
        return self.objective.name

    @property
    def subject(self) -> Subject:
        """Model, data and split in words, to hold published figures against.

        The task and its settings, unless one uses what others publish figures of: only then can
        any be comparable.
        """
        return Subject(str(Choice(self.name, self.args())), self.name)

    @property
    @abstractmethod
    def chance(self) -> float:
        """The primary metric without knowledge."""

    def check(self) -> None:
        """Find out what is wrong with the settings and cheap to know: names, files, columns.

        Called when a config is read; nothing is downloaded.

        Raises:
            InvalidSetting: all of it at once.
        """

    @abstractmethod
    def architecture(self) -> nn.Module:
        """The model, untrained: cheap to build, enough to load an artifact into."""

    def skeleton(self) -> nn.Module:
        """The model for its names, shapes and dtypes alone: values may be on the device ``meta``.

        The architecture itself, unless a task has it cheaper.
        """
        return self.architecture()

    @abstractmethod
    def prepare(self, seed: int) -> Prepared:
        """The dense model and the train and validation splits; cached where it costs."""

    @abstractmethod
    def test(self, seed: int) -> Split:
        """The test split. Called by the verification alone."""

    def forward(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """The model's outputs for a batch, (b, ...). The model is called with the inputs."""
        outputs: Tensor = model(inputs) if isinstance(inputs, Tensor) else model(**inputs)
        return outputs

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """Training inputs, distorted anew at each use; the same shape. As they are, by default."""
        return inputs

    @property
    def augments(self) -> bool:
        """Whether training inputs are distorted."""
        return type(self).augment is not Task.augment

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar. Cross-entropy unless overridden."""
        return nn.functional.cross_entropy(outputs, labels)

    def predictions(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (k, c) and classes (k,) of the k predictions that the loss counts."""
        return outputs.flatten(0, -2), labels.flatten()

    def training_loss(self, labels: Tensor) -> Loss:
        """The loss of a training on examples with these labels, (n, ...): :meth:`loss`, by default.

        What it needs to know of the data it takes from these: a worker has no files.
        """
        return self.loss

    def observe(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What scoring needs of each example of a batch, each tensor (b, ...) and small.

        ``prediction`` (b,) is what two models are said to disagree in; a task without right and
        wrong (see :meth:`correct`) needs none.
        """
        return metrics.classified(outputs, labels)

    def score(self, observed: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, float]:
        """All metrics of the examples, fractions where they are; the primary one among them.

        A function of the rows alone, in any order and number: the interval of a drop is made by
        scoring rows that are drawn again, some of them several times.
        """
        return {
            "accuracy": (observed["prediction"] == labels).double().mean().item(),
            "loss": observed["loss"].double().mean().item(),
        }

    def correct(self, observed: Mapping[str, Tensor], labels: Tensor) -> Tensor | None:
        """Which examples are right, (n,) bool: what paired comparisons count.

        None where examples are not right or wrong, as the tokens of a text. A primary metric named
        as in :data:`trainables.record.COUNTED` is the mean of it.
        """
        return observed["prediction"] == labels


TASKS: Registry[Task] = Registry("task", Task)

Forward = Callable[[Inputs], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
"""A scalar of outputs and labels."""


@torch.inference_mode()
def predict(forward: Forward, split: Split, batch_size: int) -> Tensor:
    """Outputs over a split, (n, ...), in the split's order of examples."""
    outputs, order = [], []
    for rows in split.order(batch_size):
        outputs.append(forward(split.inputs(rows)))
        order.append(rows)
    return _in_order(torch.cat(outputs).cpu(), torch.cat(order))


@torch.inference_mode()
def observe(task: Task, forward: Forward, split: Split) -> dict[str, Tensor]:
    """What :meth:`Task.score` needs of a split, on the CPU, in the split's order."""
    found: list[dict[str, Tensor]] = []
    order = []
    for rows in split.order(task.eval_batch_size):
        batch = split.batch(rows)
        outputs = forward(batch.inputs)
        found.append(task.observe(outputs, send_tensor(batch.labels, outputs.device)))
        order.append(rows)
    rows = torch.cat(order)
    return {key: _in_order(torch.cat([f[key] for f in found]).cpu(), rows) for key in found[0]}


def _in_order(values: Tensor, rows: Tensor) -> Tensor:
    """Undo the order in which a split handed out its rows."""
    if torch.equal(rows, torch.arange(len(rows))):
        return values
    return values[rows.argsort()]
