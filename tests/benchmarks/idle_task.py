"""A task that trains next to nothing, for ``machinery.py``: what remains is the machinery."""

import copy

import torch
from torch import nn

from trainables.record import Fingerprint
from trainables.tasks import TASKS, Prepared, Task, TensorSplit


@TASKS.register("idle")
class Idle(Task):
    """32 random points of 8 numbers in 4 classes, which a network of 2 layers made itself."""

    @property
    def chance(self) -> float:
        return 0.25

    def architecture(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def prepare(self, seed: int) -> Prepared:
        model = self.architecture().eval()
        fingerprint = Fingerprint("idle", f"idle-{seed}")
        return Prepared(copy.deepcopy(model), self._split(1), self._split(2), fingerprint)

    def test(self, seed: int) -> TensorSplit:
        return self._split(3)

    def _split(self, seed: int) -> TensorSplit:
        inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return TensorSplit(inputs, self.architecture()(inputs).argmax(-1))
