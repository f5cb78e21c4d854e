"""Which runtime runs which method packed: asked of the exporters, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compression.calibration import Calibration
from compression.export import EXPORTERS
from compression.methods import METHODS, Method, NoMethod
from compression.model import Rule, compress_model
from compression.registry import errors_of
from trainables.splits import Inputs

LAYERS = {"Linear": "linear", "Conv2d": "conv", "Embedding": "embedding"}
"""The kinds of layers, and the layer of :class:`_Network` that is one."""
NOTHING = "dense"


class _Network(nn.Module):
    """A layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 16)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.linear = nn.Linear(64, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs (b, 32) for tokens (b, 4)."""
        found = self.embedding(tokens).mT.unflatten(-1, (2, 2))
        outputs: Tensor = self.linear(self.conv(found).flatten(1))
        return outputs


class Runs(NamedTuple):
    """How one runtime holds the layers of one method: by kind, those that it holds packed."""

    method: str
    runtime: str
    packed: dict[str, str]


def runs() -> Iterator[Runs]:
    """Each method that stores weights, at its own settings, in each runtime."""
    for name in METHODS:
        method = METHODS.build(name)
        if method.structural or method.base_is_gone or isinstance(method, NoMethod):
            continue
        layers = {kind: _layer(method, layer) for kind, layer in LAYERS.items()}
        for runtime in EXPORTERS:
            exporter = EXPORTERS.build(runtime)
            held = {kind: exporter.keeps(one) for kind, one in layers.items() if one is not None}
            yield Runs(name, runtime, {kind: how for kind, how in held.items() if how})


def as_text() -> Iterator[str]:
    """A line a method and runtime."""
    for one in runs():
        how = "; ".join(f"{kind}: {form}" for kind, form in one.packed.items()) or NOTHING
        yield f"{one.method:17} {one.runtime:19} {how}"


def _layer(method: Method, name: str) -> nn.Module | None:
    """A layer compressed so; None where the method does not take its kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _Network().eval()
        tokens = torch.randint(32, (16, 4))
    rule = Rule(name, (method,))
    if errors_of(lambda: compress_model(model, [rule], [name], calibration=_calibration(tokens))):
        return None
    return model.get_submodule(name)


def _calibration(tokens: Tensor) -> Calibration:
    def forward(model: nn.Module, batch: tuple[Inputs, Tensor]) -> Tensor:
        outputs: Tensor = model(batch[0])
        return outputs

    return Calibration(
        count=len(tokens),
        batch=lambda rows: (tokens[rows], tokens[rows, 0]),
        forward=forward,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        batch_size=len(tokens),
    )
