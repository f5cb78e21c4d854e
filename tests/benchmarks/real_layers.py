"""Layers of real networks with what goes into them, from two disjoint sets of examples.

EfficientNet-Lite0 with its ImageNet weights on crops of photos, and all-MiniLM-L6-v2 on product
reviews: nobody here trained either. ``calibration`` is seen by methods, ``held_out`` judges them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compression.calibration import Calibration, evaluating
from compression.collecting import collect
from compression.model import target_layers
from compression.stats import InputStats, LayerStats
from trainables.calibration import calibrated, examples
from trainables.tasks import TASKS, Prepared, Task

ROWS = 1024


@dataclass(frozen=True)
class Layer:
    """A weight and the moments of its inputs; ``rows`` (k, n) are some of the inputs themselves.

    The latter are of calibration, for references that take no moments; none of a grouped layer.
    """

    name: str
    weight: Tensor
    calibration: LayerStats
    held_out: InputStats
    rows: Tensor | None = None

    def error(self, decoded: Tensor) -> float:
        """Mean squared change of the outputs on held-out inputs, in dB of the outputs' square."""
        lost, whole = (self._square(w.flatten(1)) for w in (self.weight - decoded, self.weight))
        return float(10 * torch.log10((lost / whole).clamp(min=1e-20)))

    def _square(self, matrix: Tensor) -> Tensor:
        moment = self.held_out.second_moment.double()
        grouped = matrix.double().view(len(moment), -1, matrix.shape[1])
        return torch.einsum("grn,gnk,grk->", grouped, moment, grouped)


def layers_of(task: Task, data: Prepared, samples: int) -> list[Layer]:
    """The task's target layers, calibrated on train and judged on validation."""
    seen = calibrated(data, samples, 0)
    unseen = calibrated(replace(data, train=data.validation), samples, 0)
    names = target_layers(data.model, task.targets)
    inputs, others = (_collected(task, d, names) for d in (seen, unseen))
    rows = _rows(data.model, names, _chosen(task, seen))
    return [
        Layer(name, layer.get_parameter("weight").detach(), inputs[name], held, rows.get(name))
        for name, layer in names.items()
        if (held := others[name].inputs) is not None
    ]


def _chosen(task: Task, data: Prepared) -> Calibration:
    found = examples(task, data)
    if found is None:
        raise ValueError("no calibration examples were chosen")
    return found


def _collected(task: Task, data: Prepared, names: Any) -> dict[str, LayerStats]:
    return collect(data.model, names, {"inputs"}, _chosen(task, data))


@torch.no_grad()
def _rows(model: nn.Module, layers: Any, calibration: Calibration) -> dict[str, Tensor]:
    """Of each layer without groups ROWS inputs, evenly from all of the first batch."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(layer: nn.Module, args: Any) -> None:
            x = args[0]
            if isinstance(layer, nn.Conv2d):
                if layer.groups > 1 or isinstance(layer.padding, str):
                    return
                x = nn.functional.unfold(
                    x, layer.kernel_size, layer.dilation, layer.padding, layer.stride
                ).transpose(1, 2)
            x = x.reshape(-1, x.shape[-1])
            found[name] = x[:: max(1, len(x) // ROWS)][:ROWS].clone()

        return keep

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    with evaluating(model):
        calibration.forward(model, next(calibration.batches()))
    for handle in hooks:
        handle.remove()
    return found


def stats_of(x: Tensor) -> LayerStats:
    """Of inputs (k, n)."""
    moment = (x.T @ x / len(x))[None]
    return LayerStats(InputStats(moment, x.mean(0)[None], x.abs().mean(0)[None], len(x)))


def efficientnet(samples: int) -> list[Layer]:
    """Every Conv2d and Linear of EfficientNet-Lite0."""
    task = TASKS.build("imagenet_crops", {"crops": 16, "layers": "*"})
    return layers_of(task, task.prepare(0), samples)


def minilm(samples: int, data: str) -> list[Layer]:
    """Every Linear of all-MiniLM-L6-v2's encoder; ``data`` is the reviews' wheel, or empty."""
    from minilm_speed import prepared

    settings = {"layers": "*encoder*"} | ({"data": data} if data else {})
    task = TASKS.build("product_reviews", settings)
    return layers_of(task, prepared(task), samples)


NETWORKS: dict[str, Callable[..., list[Layer]]] = {"efficientnet": efficientnet, "minilm": minilm}
