"""What the dense model itself says of each example, as labels: then a score is agreement."""

from __future__ import annotations

import safetensors.torch
import torch
from torch import Tensor, nn

from trainables.cache import cached
from trainables.splits import Split
from trainables.tasks.base import Task, predict


def dense_labels(task: Task, model: nn.Module, weights: str, split: Split) -> Tensor:
    """The model's most likely class of each example (n,) int64, of view 0; computed once.

    ``weights`` is the model's hash: with the split's digest it is what the labels depend on. The
    part of the model that no trial changes is run here for the trials, too: its features are kept.
    """

    def compute() -> bytes:
        from trainables.features import features_of  # which needs the tasks first

        forward, features = features_of(task, model, model, split)
        found = predict(forward, features, task.eval_batch_size)
        return safetensors.torch.save({"labels": found.argmax(-1)})

    key = f"dense labels|{weights}|{split.digest}|{len(split)}|{torch.__version__}"
    return safetensors.torch.load(cached(key, compute))["labels"]
