"""LoRA of a rank that grows with depth, whose A is pruned by what it multiplies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compression.acting import Acting, Moment
from compression.adapters.base import ADAPTERS, Pair
from compression.adapters.bridge.lora import Lora
from compression.adapters.ranks.allocation import Events, Scheduled
from compression.adapters.ranks.shares import allot
from compression.methods.base import Shape, matrix_shape
from compression.registry import FloatRange, Values, knob
from compression.stats import LayerStats


@ADAPTERS.register("prilora")
class PriLora(Scheduled, Lora):
    """PRILoRA: LoRA with ranks linear in depth, and A pruned in training.

    The l-th of L layers has rank ``first_factor rank`` for the first to ``(2 - first_factor) rank``
    for the last, in whole numbers of the same sum, at least 1: ``rank`` is the mean, but for the
    clamp to min(m, n). At each event the ``prune_share`` of the entries of A with the lowest
    ``|A_ij| * mean_t ||x_j||`` become 0, ``mean_t`` a running mean over steps with weight ``beta``;
    they may grow again until the next event, not after the last. On a convolution x_j is the
    channel of the input, as one, for every place in the kernel. Zeros are stored like other
    values: stored bytes are ``b r (m + n)``, whatever is pruned.

    Source: Benedek and Wolf, PRILoRA, arXiv 2401.11316.
    """

    catalogue_id = "001-47"
    first_factor: float = knob(
        0.5, FloatRange(0.0, 1.0), Values((0.33, 0.5, 0.75)), help="rank of the first layer / rank"
    )
    prune_share: float = knob(
        0.5, FloatRange(0.0, 1.0), Values((0.0, 0.25, 0.5)), help="share of A that is set to 0"
    )
    beta: float = knob(0.9, FloatRange(0.0, 0.999), help="weight of the old mean of input norms")

    def ranks(
        self, rank: int, shapes: Mapping[str, Shape], stats: Mapping[str, LayerStats]
    ) -> dict[str, int]:
        """See :meth:`Adapter.ranks`."""
        last, slope = max(len(shapes) - 1, 1), 2 * (1 - self.first_factor)
        first = self.first_factor if len(shapes) > 1 else 1.0
        exact = {name: rank * (first + slope * i / last) for i, name in enumerate(shapes)}
        ones, most = dict.fromkeys(shapes, 1), {n: max(ceil(r), 1) for n, r in exact.items()}
        whole = allot(exact, ones, rank * len(shapes), ones, most)
        return {name: min(whole[name], *matrix_shape(shape)) for name, shape in shapes.items()}

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        modules = {name: model.get_submodule(name) for name in layers}
        pairs = dict(zip(modules, self.pairs(model, modules), strict=True))
        return _Pruning(modules, pairs, seed, self)


class _Pruning(Events):
    """Running norms of the inputs, and the pruning by them.

    It hears the inputs of a step alone, up to the last event: in evaluation nothing is on the
    layers. What it heard counts once the gradients are there, so not from a step that overflowed.
    """

    rewires = True

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        pairs: Mapping[str, Pair],
        seed: int,
        own: PriLora,
    ) -> None:
        super().__init__(seed, own.shares())
        self.own, self.modules, self.pairs = own, dict(modules), dict(pairs)
        self.norms = {n: pair.A.new_zeros(pair.A.shape[1]) for n, pair in pairs.items()}
        self.masks = {n: torch.ones_like(pair.A) for n, pair in pairs.items()}
        self.heard: dict[str, list[Tensor]] = {}
        self.hooks: list[RemovableHandle] = []

    def _listener(self, name: str) -> Any:
        def listen(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._hear(name, args[0].detach())

        return listen

    def _hear(self, name: str, x: Tensor) -> None:
        a = self.pairs[name].A
        channel = -3 if a.ndim == 4 else -1
        rows = x.transpose(channel, -1).reshape(-1, a.shape[1])
        self.heard.setdefault(name, []).append(rows.float().norm(dim=0))

    def before_step(self, moment: Moment) -> None:
        """See :meth:`Acting.before_step`."""
        self._deaf()
        if self.done < len(self.shares):
            for name, module in self.modules.items():
                self.hooks.append(module.register_forward_pre_hook(self._listener(name)))

    @torch.no_grad()
    def after_backward(self, moment: Moment) -> None:
        """See :meth:`Acting.after_backward`."""
        for name, heard in self.heard.items():
            for norms in heard:
                self.norms[name].lerp_(norms.to(self.norms[name]), 1 - self.own.beta)
        self._deaf()

    def _deaf(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks, self.heard = [], {}

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`."""
        self._deaf()
        super().after_step(moment)
        if self.done == len(self.shares):
            for name, pair in self.pairs.items():
                pair.A.mul_(self.masks[name])

    def event(self, number: int) -> None:
        """See :meth:`Events.event`."""
        for name, pair in self.pairs.items():
            norms = self.norms[name].view(-1, *[1] * (pair.A.ndim - 2))
            scores = (pair.A.abs() * norms).flatten()
            count = round(self.own.prune_share * len(scores))
            mask = self.masks[name].fill_(1.0).view(-1)
            mask[scores.argsort(stable=True)[:count]] = 0.0
            pair.A.mul_(self.masks[name])

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        norms = {name: value.clone() for name, value in self.norms.items()}
        masks = {name: value.clone() for name, value in self.masks.items()}
        return {**super().state(), "norms": norms, "masks": masks}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        super().restore(state)
        for name in self.pairs:
            self.norms[name].copy_(state["norms"][name])
            self.masks[name].copy_(state["masks"][name])
