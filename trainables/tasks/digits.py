"""scikit-learn's 1,797 handwritten digits and a small network trained on them here."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache
from typing import cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from compression.registry import IntRange, Values, knob
from trainables.cache import cached
from trainables.record import Fingerprint
from trainables.splits import Inputs, Split, TensorSplit, map_inputs
from trainables.tasks.base import TASKS, Prepared, Task

# Of each family the narrowest width that reaches 97% test accuracy on all of the split seeds 0-4
# (tests/benchmarks/digits_width.py prints the table): what is compressed is no slack.
NARROWEST = {"mlp": 28, "cnn": 4}
EPOCHS, BATCH = 200, 64
LR = {"mlp": 1e-2, "cnn": 3e-2}


@TASKS.register("digits")
class Digits(Task):
    """8x8 handwritten digits, 10 classes; a small MLP or CNN pretrained in seconds, no download.

    718 training, 360 validation and 719 test images (40/20/40, stratified, drawn by the seed).
    scikit-learn's copy does not name the 43 writers of the UCI set: they mix across the splits.
    """

    network: str = knob("mlp", Values(("mlp", "cnn")))
    width: int = knob(0, IntRange(0, 256), help="0: the narrowest that reaches 97% on test")

    @property
    def chance(self) -> float:
        """One in ten."""
        return 0.1

    def architecture(self) -> nn.Module:
        """64-w-w-10, or 3x3 convolutions of w, 2w and 2w channels and a linear layer."""
        width = self.width or NARROWEST[self.network]
        return _cnn(width) if self.network == "cnn" else _mlp(width)

    def prepare(self, seed: int) -> Prepared:
        """See :class:`Task`. Training takes about 1 s (mlp) or 4 s (cnn), once per machine."""
        train, validation, _, data_hash = _splits(seed)
        model = self.architecture()
        key = "|".join(
            ("digits", self.network, str(self.width or NARROWEST[self.network]), str(seed),
             data_hash, torch.__version__, _source_hash())
        )  # fmt: skip
        weights = cached(key, lambda: _pretrain(self, train, seed))
        model.load_state_dict(safetensors.torch.load(weights))
        fingerprint = Fingerprint(hashlib.sha256(weights).hexdigest()[:16], data_hash)
        return Prepared(model.eval(), train, validation, fingerprint)

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """The distortions of the pretraining: 718 images alone are learnt by heart."""
        return map_inputs(lambda images: distort(images, generator), inputs)

    def test(self, seed: int) -> Split:
        """See :class:`Task`."""
        return _splits(seed)[2]


def _mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def _conv(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def _cnn(width: int) -> nn.Module:
    return nn.Sequential(
        *_conv(1, width, 1),
        *_conv(width, 2 * width, 2),
        *_conv(2 * width, 2 * width, 2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


@cache
def _splits(seed: int) -> tuple[TensorSplit, TensorSplit, TensorSplit, str]:
    """Train, validation, test, and the hash of all that decides who is where."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    rows = np.arange(len(labels))
    rest, test = train_test_split(rows, test_size=0.4, stratify=labels, random_state=seed)
    train, validation = train_test_split(
        rest, test_size=1 / 3, stratify=labels[rest], random_state=seed
    )
    digest = hashlib.sha256(images.tobytes() + labels.tobytes())
    for part in (train, validation, test):
        digest.update(part.tobytes() + b"|")

    def take(part: np.ndarray) -> TensorSplit:
        return TensorSplit(torch.from_numpy(images[part]), torch.from_numpy(labels[part]))

    return take(train), take(validation), take(test), digest.hexdigest()[:16]


def _source_hash() -> str:
    """A change of this file is a change of the weights it makes."""
    return hashlib.sha256(inspect.getsource(sys.modules[__name__]).encode()).hexdigest()


def _pretrain(task: Digits, train: TensorSplit, seed: int) -> bytes:
    """Train from scratch on one thread, which makes it the same on every run of a machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = task.architecture().train()
            _fit(model, cast(Tensor, train.tensors), train.labels, LR[task.network])
    finally:
        torch.set_num_threads(threads)
    return safetensors.torch.save(dict(model.state_dict()))


def _fit(model: nn.Module, images: Tensor, labels: Tensor, lr: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(images)).split(BATCH):  # type: ignore[no-untyped-call]
            outputs = model(distort(images[index], torch.default_generator))
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(outputs, labels[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Small random rotations, scalings, shears and shifts: (n, 1, height, width) to the same."""
    spread = torch.tensor([[0.4], [0.2], [0.2], [0.3], [0.3]])
    drawn = torch.rand(5, len(images), generator=generator) - 0.5
    angle, scale, shear, dx, dy = drawn * spread
    cos, sin = (1 + scale) * angle.cos(), angle.sin()
    rows = torch.stack([torch.stack([cos, shear - sin, dx]), torch.stack([sin, cos, dy])])
    grid = nn.functional.affine_grid(rows.permute(2, 0, 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)
