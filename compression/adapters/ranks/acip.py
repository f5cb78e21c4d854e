"""The order in which directions of a low-rank base may go, learned beside a LoRA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compression.acting import Acting, Moment
from compression.adapters.base import ADAPTERS, Shipped
from compression.adapters.ranks.gated import Gated, GatedLayer, gated_layers
from compression.layers import packed_of
from compression.methods import AnyCompression, Method
from compression.methods.base import CompressedWeight
from compression.methods.chain import split
from compression.registry import FloatAbove, FloatRange, Values, knob


class ScoredLayer(GatedLayer):
    """A LoRA around a base of method ``acip``, whose directions can be closed for a step.

    ``p`` (k,) is above 0 for open directions; ``closed`` (k,) is the share of the training after
    which a direction was closed last, -1 for open ones.
    """

    def __init__(self, base: nn.Module, most: int, scale: float, trained_gate: bool) -> None:
        """All directions open, at p = 1."""
        super().__init__(base, most, scale, trained_gate)
        scores = self._base().get("scores", torch.empty(0, device=self.lora_A.device))
        self.p: Tensor
        self.closed: Tensor
        self.register_buffer("p", torch.ones_like(scores))
        self.register_buffer("closed", torch.full_like(scores, -1.0))
        self._asked: Tensor | None = None
        self._whole: Tensor | None = None
        self._scored: tuple[CompressedWeight, ...] = ()  # in a tuple: no module of the model

    def _base(self) -> dict[str, Tensor]:
        """The packed tensors of the base; none where it is dense."""
        packed = packed_of(self.base_layer)
        return {} if packed is None else packed.state()

    def close(self) -> None:
        """Compute with the open directions alone, until :meth:`open`."""
        base: Any = self.base_layer
        tensors = self._base()
        with torch.enable_grad():
            p = self._asked = self.p.clone().requires_grad_()
            mask = (p > 0).float() + p - p.detach()
            weight = (tensors["left"].float() * mask) @ tensors["right"].float()
            self._whole = base.weight
            base.weight = weight.view(base.weight.shape).to(base.weight.dtype)

    def open(self) -> None:
        """Compute with all directions."""
        if self._whole is not None:
            self.base_layer.weight = self._whole
        self._whole = self._asked = None

    @property
    def gradient(self) -> Tensor:
        """Of the mask, in this step."""
        found = None if self._asked is None else self._asked.grad
        return torch.zeros_like(self.p) if found is None else found

    def move(self, by: Tensor, progress: float) -> None:
        """Move p; directions that close by it do so at this share of the training."""
        before = self.p > 0
        self.p += by
        self.closed[before & (self.p <= 0)] = progress
        self.closed[self.p > 0] = -1.0

    def scores(self) -> Tensor:
        """1 to 2 for open directions, by p; else below 1, by when they closed, in one step by p.

        Where nothing has moved yet they are those that the base came with.
        """
        if bool((self.p == 1).all()):
            return self._base()["scores"]
        closed = self.closed.clamp(min=0) / 2 + torch.sigmoid(self.p) * 1e-3
        return torch.where(self.p > 0, 1 + self.p / (1 + self.p.abs()), closed)

    def scored(self) -> CompressedWeight:
        """The base with its scores, the same object as long as the base is."""
        packed, tensors = packed_of(self.base_layer), self._base()
        if packed is None:
            raise TypeError(f"no packed weight in {type(self.base_layer).__name__}")
        known = self._scored[0].state() if self._scored else {}
        if known.get("left") is not tensors["left"]:
            own = {**tensors, "scores": tensors["scores"].clone()}
            self._scored = (CompressedWeight(packed.method, packed.shape, own),)
        found = self._scored[0]
        found.state()["scores"].copy_(self.scores())
        return found


@ADAPTERS.register("acip")
class Acip(Gated):
    """ACIP: LoRA, while an l1 weight closes and scores the directions of method ``acip``.

    In a step layers compute with ``L diag(m) R + s B A``, ``m_i = 1 if p_i > 0 else 0``; the
    gradient of m_i is taken for that of p_i. p starts at 1, and after the step
    ``p_i -= (g_i / g + w) c``: g is the mean of |g_i| over all layers, w grows from
    ``start_weight`` to ``end_weight`` by equal factors, ``c = speed / steps``. A direction that is
    closed may open again. Scores go by p, and of closed directions by when they were closed last.
    None is pulled once no more than ``least`` of their bytes are open. From the share ``until`` of
    the training on, between steps, and in what ships all are open: what the file is cut to is
    chosen later (``load(..., max_bytes=...)``).

    Stored bytes: ``b r (m + n)`` beside those of the base. How w and p move is this project's (?),
    so that short trainings go all the way; published are Adam on p, a weight that grows until some
    size is reached, and no training after it, which is ``until=1``.

    Source: Genzel et al., Choose Your Model Size, arXiv 2502.01717.
    """

    catalogue_id = "001-76"
    factored = True
    additive = False  # not on every base
    layer = ScoredLayer
    start_weight: float = knob(
        0.01, FloatAbove(0.0, 1e3), help="w at the start, over the mean gradient"
    )
    end_weight: float = knob(
        10.0, FloatAbove(0.0, 1e3), FloatRange(1.0, 100.0, log=True), help="w at the end"
    )
    speed: float = knob(
        4.0, FloatAbove(0.0, 1e3), help="how far p moves in the whole training at a pull of 1"
    )
    least: float = knob(0.1, FloatRange(0.0, 1.0), help="share of the bytes that stays open")
    until: float = knob(
        0.7, FloatAbove(0.0, 1.0), Values((0.5, 0.7)), help="share of training that scores take"
    )

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`: methods whose directions have no scores."""
        methods = list(methods)
        yield from super().refusals(layers, rank, methods)
        for method in dict.fromkeys(split(method)[1] for method in methods):
            if not isinstance(method, AnyCompression):
                yield f"{self.name} scores directions, and {method.name} stores no scores: use acip"

    @property
    def settled_at(self) -> float:
        """See :attr:`Adapter.settled_at`: when the scores are learned."""
        return self.until

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`."""
        layers = list(layers)
        own = {
            f"{name}.{state}": getattr(layer, state)
            for name, layer in gated_layers(model, layers).items()
            for state in ("p", "closed")
        }
        return super().parameters(model, layers) | own

    def shipped(self, model: nn.Module, layer: str, own: Shipped) -> Shipped:
        """See :meth:`Adapter.shipped`: the base with its scores, and the LoRA."""
        found: Any = gated_layers(model, [layer])[layer]
        plain = super().shipped(model, layer, own)
        return replace(plain, packed=found.scored()) if len(found.p) else plain

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        found: Any = gated_layers(model, layers).values()
        return _Closing([layer for layer in found if len(layer.p)], self)


class _Closing(Acting):
    """Masks in each step, and what opens and closes them after it."""

    rewires = True

    def __init__(self, layers: list[ScoredLayer], own: Acip) -> None:
        self.layers, self.own = layers, own

    def before_step(self, moment: Moment) -> None:
        """See :meth:`Acting.before_step`."""
        for layer in self.layers if moment.progress < self.own.until else ():
            layer.close()

    def settled(self, moment: Moment) -> bool:
        """See :meth:`Acting.settled`."""
        return moment.progress >= self.own.until

    @torch.no_grad()
    def after_backward(self, moment: Moment) -> None:
        """See :meth:`Acting.after_backward`: p moves, by gradients in the scale of their mean."""
        done = moment.progress / self.own.until
        if done >= 1:
            return
        gradients = [layer.gradient for layer in self.layers]
        mean = torch.cat(gradients).abs().mean()
        first, last = self.own.start_weight, self.own.end_weight
        pull = first * (last / first) ** done if self._share() > self.own.least else 0.0
        for layer, gradient in zip(self.layers, gradients, strict=True):
            relative = gradient / mean if mean else torch.zeros_like(gradient)
            step = self.own.speed / (moment.steps * self.own.until)
            layer.move(-(relative + pull) * step, done)

    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`."""
        for layer in self.layers:
            layer.open()

    def _share(self) -> float:
        """Bytes of the open directions over those of all."""
        sizes = [(layer, layer.scored().stored_bytes()) for layer in self.layers]
        opened = sum(float((layer.p > 0).float().mean()) * size for layer, size in sizes)
        return opened / sum(size for _, size in sizes)
