"""What adapters share that move ranks between layers at set shares of the training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compression.acting import Acting, Moment
from compression.adapters.ranks.gated import Gated, GatedLayer
from compression.registry import FloatRange, IntRange, Plugin, Values, knob

_ROUNDING = 1e-9  # of shares, which are sums of floats


@dataclass(frozen=True)
class Scheduled(Plugin):
    """Knobs of an adapter that changes its form at ``events`` moments from ``warmup`` to ``until``.

    Both are shares of all training steps, so that short and long budgets follow the same course.
    """

    warmup: float = knob(0.1, FloatRange(0.0, 1.0), help="share of training before the first event")
    until: float = knob(0.6, FloatRange(0.0, 1.0), help="share of training by the last event")
    events: int = knob(8, IntRange(1, 1000), help="how many times its form changes")

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.until < self.warmup:
            yield f"{self.name}.until: {self.until} is before warmup {self.warmup}"

    @property
    def settled_at(self) -> float:
        """See :meth:`Adapter.settled_at`: after the last event."""
        return self.until

    def shares(self) -> list[float]:
        """The shares of training after which it changes, ascending, the last one ``until``."""
        if self.events == 1:
            return [self.until]
        step = (self.until - self.warmup) / (self.events - 1)
        return [self.warmup + step * i for i in range(self.events - 1)] + [self.until]


@dataclass(frozen=True)
class Exchanging(Scheduled, Gated):
    """An adapter that moves ranks between layers; their sum stays ``rank`` times the layers."""

    max_factor: float = knob(
        2.0, FloatRange(1.0, 16.0), Values((1.5, 2.0, 3.0)), help="most ranks of a layer / ``rank``"
    )

    roomy = "max_factor"

    def prepare(self, layer: GatedLayer) -> None:
        """See :meth:`Gated.prepare`: as many ranks as were asked for."""
        layer.live[layer.asked :] = 0.0


class Events(Acting):
    """An :class:`Acting` with events after given shares of the training, each once, in order."""

    def __init__(self, seed: int, shares: Sequence[float]) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.shares, self.done = list(shares), 0

    @abstractmethod
    def event(self, number: int) -> None:
        """Change the adapter; ``number`` counts from 0."""

    def occur(self, number: int) -> None:
        """An event, and what it means for others: that parameters mean something else now."""
        self.event(number)
        self.renewals += 1

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`: the events that are due."""
        progress = (moment.step + 1) / moment.steps + _ROUNDING
        while self.done < len(self.shares) and self.shares[self.done] <= progress:
            self.occur(self.done)
            self.done += 1

    def settled(self, moment: Moment) -> bool:
        """See :meth:`Acting.settled`."""
        return self.done >= len(self.shares)

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        random = self.random.get_state()
        return {"done": self.done, "renewals": self.renewals, "random": random}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        self.done, self.renewals = int(state["done"]), int(state["renewals"])
        self.random.set_state(state["random"].cpu())


class RankEvents(Events):
    """Events that change which ranks of the layers are live."""

    resizes = rewires = True

    def __init__(self, layers: Mapping[str, GatedLayer], seed: int, own: Scheduled) -> None:
        super().__init__(seed, own.shares())
        self.layers = dict(layers)

    def occur(self, number: int) -> None:
        """See :meth:`Events.occur`: where ranks die, come back or are renewed, others mean nothing.

        Or where a gate is closed or opened, which is the same to who takes means over steps.
        """
        renewals, before = self.renewals, self._open()
        self.event(number)
        if self.renewals == renewals and not torch.equal(before, self._open()):
            self.renewals += 1

    def _open(self) -> Tensor:
        return torch.cat([(one.live != 0) & (one.gate != 0) for one in self.layers.values()])

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`: and B of dead ranks stays 0, whatever momentum says."""
        super().after_step(moment)
        for layer in self.layers.values():
            layer.lora_B.mul_(layer.live.view(1, -1, *layer.lora_B.shape[2:]))

    def present(self) -> dict[str, GatedLayer]:
        """The layers that take part in this step: hooks switch some off, and no penalty is theirs.

        Else the penalty's gradient would pass for that of a loss that does not know the layer.
        """
        return {name: one for name, one in self.layers.items() if not one._disable_adapters}

    @property
    def budget(self) -> int:
        """The sum of the ranks that were asked for."""
        return sum(layer.asked for layer in self.layers.values())

    @property
    def used(self) -> int:
        """The sum of the live ranks."""
        return sum(len(layer.index()) for layer in self.layers.values())


class Allocating(RankEvents):
    """Events that go by a score of each rank: a running mean over steps, without its bias to 0.

    ``orthogonality`` weighs the squared cosines between ranks.
    """

    def __init__(
        self,
        layers: Mapping[str, GatedLayer],
        seed: int,
        own: Scheduled,
        beta: float,
        orthogonality: float = 0.0,
    ) -> None:
        super().__init__(layers, seed, own)
        self.beta, self.orthogonality = beta, orthogonality
        self.means = {name: torch.zeros_like(one.live) for name, one in self.layers.items()}
        self.ages = {name: torch.zeros_like(one.live) for name, one in self.layers.items()}

    @abstractmethod
    def score(self, layer: GatedLayer) -> Tensor:
        """How much each rank matters at this step, (most,); gradients are there."""

    @torch.no_grad()
    def after_backward(self, moment: Moment) -> None:
        """See :meth:`Acting.after_backward`: scores go into their means.

        Those of layers that this step left out, as hooks do, stay as they are.
        """
        for name, layer in self.layers.items():
            if layer.lora_B.grad is None:
                continue
            mean = self.means[name]
            mean.copy_(self.beta * mean + (1 - self.beta) * self.score(layer))
            self.ages[name] += 1

    def scores(self) -> dict[str, Tensor]:
        """The mean score of each rank, (most,) by layer; 0 for one that was never scored."""
        found = {}
        for name, mean in self.means.items():
            seen = 1 - self.beta ** self.ages[name].clamp(min=1).double()
            found[name] = (mean / seen).to(mean)
        return found

    def keep(self, total: int, least: int) -> None:
        """Leave the ``total`` live ranks of the highest scores, in each layer at least ``least``.

        Or as many as a layer has, or was asked to have, where that is less.
        """
        scores, rows = self.scores(), []
        for name, layer in self.layers.items():
            index, own = layer.index(), scores[name].clone()
            best = index[own[index].argsort(descending=True, stable=True)]
            own[best[: min(least, layer.asked)]] = torch.inf
            own[layer.live == 0] = -torch.inf
            rows.append(own)
        for layer, mask in zip(self.layers.values(), highest(rows, total), strict=True):
            layer.live.mul_(mask)

    def grow(self, order: Sequence[str], count: int, gated: bool) -> None:
        """Up to ``count`` new ranks without effect: one a layer in this order, then round again."""
        open_ = [name for name in order if self.room_in(name)]
        while count and open_:
            for name in open_[:count]:
                layer = self.layers[name]
                slot = int((layer.live == 0).nonzero()[0])
                renew(layer, slot, self.random, gated)
                self.means[name][slot] = self.ages[name][slot] = 0
                self.renewals += 1
            count -= min(count, len(open_))
            open_ = [name for name in open_ if self.room_in(name)]

    def room_in(self, name: str) -> int:
        """How many ranks a layer can still get."""
        layer = self.layers[name]
        return layer.most - len(layer.index())

    def by_layer(self) -> dict[str, float]:
        """The mean score of each layer's live ranks; 0 where there is none."""
        scores = self.scores()
        return {
            name: float(scores[name][layer.index()].mean()) if len(layer.index()) else 0.0
            for name, layer in self.layers.items()
        }

    def penalty(self) -> Tensor | None:
        """See :meth:`Acting.penalty`."""
        on = self.present().values() if self.orthogonality else ()
        parts = [overlap(layer) for layer in on]
        if not parts:
            return None
        return self.orthogonality * torch.stack(parts).sum()

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        means = {name: mean.clone() for name, mean in self.means.items()}
        ages = {name: age.clone() for name, age in self.ages.items()}
        return {**super().state(), "means": means, "ages": ages}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        super().restore(state)
        for name in self.layers:
            self.means[name].copy_(state["means"][name])
            self.ages[name].copy_(state["ages"][name])


def highest(scores: Sequence[Tensor], total: int) -> Sequence[Tensor]:
    """A mask for each of the vectors: 1 where a score is among the ``total`` highest of all."""
    flat = torch.cat(list(scores))
    chosen = torch.zeros_like(flat)
    chosen[flat.argsort(descending=True, stable=True)[:total]] = 1
    masks: Sequence[Tensor] = chosen.split([len(one) for one in scores])  # type: ignore[no-untyped-call]
    return masks


@torch.no_grad()
def renew(layer: GatedLayer, slot: int, generator: torch.Generator | None, gated: bool) -> None:
    """A new live rank that has no effect yet: by a gate of 0 or, without one, by B = 0.

    A is as LoRA starts it. Behind a gate the entries of B are near 1, so that a step of the gate
    moves the delta as far as a step of LoRA's B does. Optimizers know nothing of it: the new rank
    begins with what moments the dead one left there.
    """
    a, b = layer.lora_A[slot], layer.lora_B[:, slot]
    a.copy_((2 * torch.rand(a.shape, generator=generator) - 1) / a.numel() ** 0.5)
    b.copy_(torch.randn(b.shape, generator=generator) if gated else torch.zeros(b.shape))
    layer.gate[slot] = 0.0 if gated else 1.0
    layer.live[slot] = 1.0


def sensitivity(layer: GatedLayer) -> Tensor:
    """``|g dg| + mean_j |A_ij dA_ij| + mean_j |B_ji dB_ji|`` of each rank i, (most,), d gradients.

    The first-order change of the loss if an entry were set to 0, as AdaLoRA sums it over a rank.
    """
    found = layer.gate_gradient().abs()
    for factor, axis in ((layer.lora_A, 1), (layer.lora_B, 0)):
        if factor.grad is not None:
            found = found + (factor.detach() * factor.grad).flatten(1).abs().mean(axis)
    return found * layer.live


def overlap(layer: GatedLayer) -> Tensor:
    """The squared cosines between different live columns of B, and rows of A, summed."""
    b, a = layer.matrices()
    index, total = layer.index(), b.new_zeros(())
    for rows in (F.normalize(b.T[index]), F.normalize(a[index])):
        total = total + (rows @ rows.T).triu(diagonal=1).square().sum()
    return total
