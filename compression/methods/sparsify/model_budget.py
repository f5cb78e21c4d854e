"""One budget of weights for all layers of a model together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from compression.methods.base import Plan, Scene
from compression.methods.sparsify.sparse_form import SPARSITY, Unstructured


def counts(scores: list[Tensor], keep: int) -> list[int]:
    """How many of the ``keep`` highest of all scores are in each list; ties go to the first."""
    everything = torch.cat(scores).numpy()
    rank = len(everything) - keep
    threshold = float(np.partition(everything, rank)[rank])  # kthvalue is quadratic where sorted
    above = [int((s > threshold).sum()) for s in scores]
    left = keep - sum(above)
    found = []
    for count, s in zip(above, scores, strict=True):
        equal = min(left, int((s == threshold).sum()))
        left -= equal
        found.append(count + equal)
    return found


def weights_of(scene: Scene) -> Iterator[Tensor]:
    """The weights of all layers, each as one float32 vector in main memory."""
    for layer in scene.layers.values():
        yield layer.weight.detach().flatten().to("cpu", torch.float32)  # type: ignore[operator]


def shared_plan(method: Unstructured, scene: Scene, scores: list[Tensor]) -> Plan:
    """``method`` with what each layer keeps, by the highest of all scores.

    Infinite scores are kept whatever the budget.
    """
    total = sum(map(len, scores))
    floor = sum(int(s.isinf().sum()) for s in scores)
    keep = max(method.budget(total), floor)
    found = zip(scene.layers, counts(scores, keep), strict=True)
    return Plan({name: method.replace(kept=n, sparsity=SPARSITY) for name, n in found})
