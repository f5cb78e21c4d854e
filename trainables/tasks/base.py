"""What a task is: a pretrained model, its data, and how it is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from compression.registry import Plugin, Registry
from trainables.record import Fingerprint


@dataclass(frozen=True)
class Split:
    """Examples held as tensors: inputs (n, ...), labels (n,)."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Split]:
        """Batches of at most ``size``, in the generator's order or as they stand."""
        if generator is None:
            for start in range(0, len(self), size):
                yield Split(self.inputs[start : start + size], self.labels[start : start + size])
            return
        for index in torch.randperm(len(self), generator=generator).split(size):  # type: ignore[no-untyped-call]
            yield Split(self.inputs[index], self.labels[index])


@dataclass(frozen=True)
class Prepared:
    """What search workers get: the dense model and the data they may see. No test split."""

    model: nn.Module
    train: Split
    validation: Split
    fingerprint: Fingerprint


class Task(Plugin, ABC):
    """A pretrained model with data splits, a primary metric and target layers.

    ``targets`` are patterns over full module names: the layers a study may compress. ``chance`` is
    the primary metric of a model that knows nothing, the reference of the hypervolume.
    """

    metric: ClassVar[str] = "accuracy"
    targets: ClassVar[tuple[str, ...]] = ("*",)

    @property
    @abstractmethod
    def chance(self) -> float:
        """The primary metric without knowledge."""

    @abstractmethod
    def architecture(self) -> nn.Module:
        """The model, untrained: cheap to build, enough to load an artifact into."""

    @abstractmethod
    def prepare(self, seed: int) -> Prepared:
        """The dense model and the train and validation splits; cached where it costs."""

    @abstractmethod
    def test(self, seed: int) -> Split:
        """The test split. Called by the verification alone."""

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Training inputs, distorted anew at each use; the same shape. As they are, by default."""
        return inputs

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar. Cross-entropy unless overridden."""
        return nn.functional.cross_entropy(outputs, labels)

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Which examples are right, (n,) bool: what paired comparisons count."""
        return outputs.argmax(-1) == labels

    def score(self, outputs: Tensor, labels: Tensor) -> Mapping[str, float]:
        """All metrics as fractions; the primary one under ``metric``."""
        loss = nn.functional.cross_entropy(outputs, labels)
        return {
            "accuracy": self.correct(outputs, labels).double().mean().item(),
            "loss": loss.item(),
        }


TASKS: Registry[Task] = Registry("task", Task)


@torch.inference_mode()
def predict(model: nn.Module, split: Split, batch_size: int = 1024) -> Tensor:
    """Outputs of the model in eval mode over a split, (n, ...), in the split's order."""
    training = model.training
    model.eval()
    outputs = torch.cat([model(batch.inputs) for batch in split.batches(batch_size)])
    model.train(training)
    return outputs
