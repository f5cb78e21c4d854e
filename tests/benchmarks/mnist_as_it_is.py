"""A plugin for curves_b.yaml: MNIST's 5,000 digits, recovered on the images as they are.

The distortions that pretraining uses take most of an epoch here; a dense design needs many epochs.
"""

from __future__ import annotations

import torch

from trainables.splits import Inputs
from trainables.tasks.base import TASKS
from trainables.tasks.mnist import Mnist5k


@TASKS.register("mnist5k_as_it_is")
class AsItIs(Mnist5k):
    """The network and the splits of ``mnist5k``, trained on without distortions."""

    @property
    def augments(self) -> bool:
        """They are not."""
        return False

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """As they are."""
        return inputs
