"""Pruning by another package on one weight: what ours is measured against.

    pip install --no-deps --target REFERENCES torchao==0.18.0
    PYTHONPATH=REFERENCES python tests/benchmarks/reference_sparsifiers.py

torchao's ``WandaSparsifier`` on the CPU. Unstructured, it compares ``|w_ij| ||x_j||`` over
a whole matrix: ours with ``across="layer"``. Bytes are the same at the same number of weights.
Nothing else there prunes a matrix: torchao has no SparseGPT, torch-pruning takes whole channels.
"""

from __future__ import annotations

import importlib.util
import warnings
from statistics import median

import torch
from measured import options, table
from real_layers import Layer, efficientnet
from torch import Tensor, nn

from compression.methods import METHODS
from compression.stats import inputs_of


def installed() -> bool:
    """Whether torchao can be run."""
    return importlib.util.find_spec("torchao") is not None


def torchao_wanda(weight: Tensor, moment: Tensor, sparsity: float = 0.5, m: int = 0) -> Tensor:
    """What is left of W (m, n) given the inputs' second moment (n, n): ``wanda``.

    With ``m`` it is half of every m neighbours, which have to divide n, whatever the sparsity.
    """
    from torchao.sparsity import WandaSparsifier

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    model = nn.Sequential(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparsifier = WandaSparsifier(sparsity, m or None)
        sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
        model[0].activation_post_process.norm = moment.diagonal().clamp(min=0).sqrt()
        sparsifier.step()
        sparsifier.squash_mask()
    return model[0].weight.detach()


def main() -> None:
    """Both on the layers of EfficientNet-Lite0 that are one matrix of whole tiles."""
    chosen = options(__doc__, samples=256)
    layers = [layer for layer in efficientnet(chosen.samples) if _whole(layer)]
    rows = [["", "ours dB", "theirs dB", "ours less theirs", "layers the same"]]
    for title, theirs, ours in (
        ("2:4", {"m": 4}, {"pattern": "n_m"}),
        ("50% by layer", {}, {"across": "layer"}),
        ("80% by layer", {"sparsity": 0.8}, {"sparsity": 0.8, "across": "layer"}),
        ("50% by row", {}, {}),
        ("80% by row", {"sparsity": 0.8}, {"sparsity": 0.8}),
    ):
        method, same, errors = METHODS.build("wanda", ours), 0, []
        for layer in layers:
            own = method.compress(layer.weight, layer.calibration).dense()
            inputs = inputs_of(layer.calibration)
            other = torchao_wanda(layer.weight.flatten(1), inputs.pooled(), **theirs).view_as(own)
            same += torch.equal(own, other)
            errors.append((layer.error(own), layer.error(other)))
        medians = [median(x) for x in (*zip(*errors, strict=True), [a - b for a, b in errors])]
        rows.append([title, *(f"{x:.3f}" for x in medians), f"{same} of {len(layers)}"])
    print(table(rows))


def _whole(layer: Layer) -> bool:
    """Whether it has one group of inputs, a multiple of four of them."""
    return len(layer.held_out.mean) == 1 and layer.weight[0].numel() % 4 == 0


if __name__ == "__main__":
    main()
