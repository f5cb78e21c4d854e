"""What a frozen layer at a cut puts out is the same in every epoch of a trial: computed once.

An adapted layer computes W x + delta(x). Where x is a cached feature and W is frozen, W x is a
constant of the trial, as the feature is one of the study. For a classifier on a network's last
features it is nearly all of the work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compression.layers import packed_of
from trainables.splits import Inputs, Split, StandIn
from trainables.stage import Stage
from trainables.tasks.base import Forward

BUDGET = 512 * 2**20
"""Bytes that one trial may keep of such outputs."""


def recalling(stage: Stage, batch_size: int = 4096) -> Stage:
    """The same stage with the base outputs of its first adapted layers kept in memory.

    Args:
        stage: given back as it is unless its ``reads`` name layers that stand at the cut.
        batch_size: rows at a time.
    """
    reads = stage.reads
    frozen = {name: base for name in reads if (base := _frozen_base(stage.model, name)) is not None}
    if not frozen or _bytes(stage, frozen, reads) > BUDGET:
        return stage

    def remember(split: Split) -> Split:
        outputs = _outputs(split, frozen, reads, batch_size)
        return _Recalled(split, outputs)

    def forward(inputs: Inputs) -> Tensor:
        given = _named(inputs)
        with ExitStack() as stack:
            for name, base in frozen.items():
                stack.enter_context(_answering(base, given[reads[name]], given[_key(name)]))
            return plain(given)

    keys = {_key(name) for name in frozen}
    plain = _without(keys, stage.forward)
    return replace(
        stage,
        forward=forward,
        forward_of=lambda model: _without(keys, stage.forward_of(model)),
        train=remember(stage.train),
        validation=remember(stage.validation),
    )


def _named(inputs: Inputs) -> Mapping[str, Tensor]:
    if isinstance(inputs, Tensor):
        raise TypeError("a stage at a cut takes tensors by name")
    return inputs


def _without(keys: Collection[str], forward: Forward) -> Forward:
    """A forward that is not given these."""

    def plain(inputs: Inputs) -> Tensor:
        given = _named(inputs)
        return forward({key: value for key, value in given.items() if key not in keys})

    return plain


def _key(name: str) -> str:
    return f"base:{name}"


def _frozen_base(model: nn.Module, name: str) -> nn.Module | None:
    """The frozen layer inside an adapter's wrapper; None without a wrapper, or if it is trained."""
    base = model.get_submodule(name)._modules.get("base_layer")
    if not isinstance(base, nn.Module) or any(p.requires_grad for p in base.parameters()):
        return None
    if (packed := packed_of(base)) is not None and packed.method.base_is_gone:
        return None  # zeros
    return base


@torch.no_grad()
def _bytes(stage: Stage, frozen: Mapping[str, nn.Module], reads: Mapping[str, str]) -> int:
    one = _named(stage.validation.inputs(torch.arange(1)))
    rows = stage.train.views * len(stage.train) + stage.validation.views * len(stage.validation)
    return sum(base(one[reads[name]]).nbytes * rows for name, base in frozen.items())


@torch.no_grad()
def _outputs(
    split: Split, frozen: Mapping[str, nn.Module], reads: Mapping[str, str], batch_size: int
) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {name: [] for name in frozen}
    for rows in torch.arange(split.views * len(split)).split(batch_size):  # type: ignore[no-untyped-call]
        features = _named(split.inputs(rows))
        for name, base in frozen.items():
            found[name].append(base(features[reads[name]]))
    return {_key(name): torch.cat(parts) for name, parts in found.items()}


class _Recalled(StandIn):
    """A split that hands out base outputs beside the features."""

    def __init__(self, split: Split, outputs: Mapping[str, Tensor]) -> None:
        super().__init__(split)
        self.outputs = outputs

    def inputs(self, rows: Tensor) -> Inputs:
        features = _named(self.base.inputs(rows))
        return {
            **features,
            **{key: values.index_select(0, rows) for key, values in self.outputs.items()},
        }


@contextmanager
def _answering(layer: nn.Module, feature: Tensor, output: Tensor) -> Iterator[None]:
    """Within the block the layer answers ``feature`` with ``output``; all else it computes.

    An adapter may change what it hands to its layer, as OFT does, which rotates it.
    """
    compute, own = layer.forward, vars(layer).get("forward")

    def answer(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and args[0] is feature and not kwargs:
            return output
        return compute(*args, **kwargs)

    object.__setattr__(layer, "forward", answer)
    try:
        yield
    finally:
        object.__delattr__(layer, "forward")
        if own is not None:
            object.__setattr__(layer, "forward", own)
