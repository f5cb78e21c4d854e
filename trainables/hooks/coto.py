"""Adapters that are switched off at random, ever less often."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from compression.acting import Acting, Moment
from compression.adapters import Adapter
from compression.methods import Method
from compression.registry import FloatRange, Values, knob
from trainables.hooks.base import HOOKS, Hook, Scene, nothing


@HOOKS.register("coto")
class CoTo(Hook):
    """CoTo: in each step every layer's adapter is on with probability ``min(1, t / c)``.

    t is the share of the training that is done, c = ``ramp``; from c on it changes nothing. A layer
    whose adapter is off computes as its base alone does. Where all would be off, one drawn at
    random stays on: there would be nothing to train.

    Source: CoTo, catalogue 001-64.
    """

    catalogue_id = "001-64"
    ramp: float = knob(
        0.75, FloatRange(0.0, 1.0), Values((0.5, 0.75)), help="c, share of the training"
    )

    def refusals(self, methods: Collection[Method], adapters: Collection[Adapter]) -> Iterator[str]:
        """See :meth:`Hook.refusals`: adapters that no layer has for itself."""
        for name in dict.fromkeys(a.name for a in adapters if not a.by_layer):
            yield f"adapter {name} has nothing that belongs to one layer alone"

    def start(self, scene: Scene) -> Acting:
        """See :class:`Hook`."""
        layers = {name: scene.model.get_submodule(name) for name in scene.adapted}
        return _Switching(layers, scene.trained(), self.ramp, scene.generator(self.name))


class _Switching(Acting):
    rewires = True

    def __init__(
        self,
        layers: dict[str, nn.Module],
        trained: dict[str, list[nn.Parameter]],
        ramp: float,
        generator: torch.Generator,
    ) -> None:
        self.layers, self.trained, self.ramp, self.generator = layers, trained, ramp, generator
        self.on: list[str] = []

    def before_step(self, moment: Moment) -> None:
        """See :meth:`Acting.before_step`."""
        self.on = []
        if moment.progress >= self.ramp:
            return
        drawn = torch.rand(len(self.layers), generator=self.generator)
        on = dict(zip(self.layers, (drawn < moment.progress / self.ramp).tolist(), strict=True))
        learns = [n for n in on if any(p.requires_grad for p in self.trained[n])]
        if learns and not any(on[name] for name in learns):
            on[learns[int(torch.randint(len(learns), (), generator=self.generator))]] = True
        self.on = [name for name in on if on[name]]
        self._switch(on)

    def penalty(self) -> Tensor | None:
        """See :meth:`Acting.penalty`: none, but something to begin at."""
        return nothing(p for name in self.on for p in self.trained[name])

    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`: what is scored and shipped has all of them."""
        self._switch(dict.fromkeys(self.layers, True))

    def _switch(self, on: dict[str, bool]) -> None:
        for name, layer in self.layers.items():
            layer._disable_adapters = not on[name]  # type: ignore[assignment]

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        self.generator.set_state(state["generator"])
