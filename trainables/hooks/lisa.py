"""A few layers' adapters at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from compression.acting import Acting, Moment
from compression.adapters import Adapter
from compression.methods import Method
from compression.registry import FloatRange, IntRange, Values, knob
from trainables.hooks.base import HOOKS, Hook, Scene, forget, nothing, period


@HOOKS.register("lisa")
class Lisa(Hook):
    """LISA: in each period the adapters of ``layers`` random layers are trained, no others.

    The others are frozen bit by bit, and the optimizer forgets what it keeps of them. A tensor that
    layers share is trained in the periods of any of them; what belongs to no layer, always. The
    paper unfreezes whole layers and trains embedding and head throughout; here layers are packed,
    and their adapters are all there is.

    Source: Pan et al., LISA, arXiv 2403.17919, catalogue 001-77.
    """

    catalogue_id = "001-77"
    layers: int = knob(
        2, IntRange(1, 1 << 16), Values((1, 2, 4)), help="gamma, trained at a time; at most all"
    )
    every: float = knob(
        0.05, FloatRange(0.0, 1.0), Values((0.02, 0.05, 0.1)), help="period, share of the training"
    )

    def refusals(self, methods: Collection[Method], adapters: Collection[Adapter]) -> Iterator[str]:
        """See :meth:`Hook.refusals`: adapters that no layer has for itself."""
        for name in dict.fromkeys(a.name for a in adapters if not a.by_layer):
            yield f"adapter {name} has nothing that belongs to one layer alone"

    def start(self, scene: Scene) -> Acting:
        """See :class:`Hook`."""
        return _Sampling(scene, self.layers, self.every, scene.generator(self.name))


class _Sampling(Acting):
    """``active`` are the layers of the period ``of``."""

    rewires = True

    def __init__(self, scene: Scene, layers: int, every: float, generator: torch.Generator) -> None:
        self.model, self.optimizer = scene.model, scene.optimizer
        self.trained = {name: own for name, own in scene.trained().items() if own}
        self.names = list(self.trained)
        self.layers, self.every, self.generator = layers, every, generator
        self.of, self.active = -1, list[int]()

    def before_step(self, moment: Moment) -> None:
        """See :meth:`Acting.before_step`."""
        if (now := period(moment, self.every)) != self.of:
            drawn = torch.randperm(len(self.names), generator=self.generator)
            self.of, self.active = now, sorted(drawn[: self.layers].tolist())
            forget(self.optimizer, self._frozen())
        for parameter in self._frozen():
            parameter.requires_grad_(False)
        active = [self.model.get_submodule(self.names[i]) for i in self.active]
        if active and all(getattr(layer, "_disable_adapters", False) for layer in active):
            # Another hook has switched off all that is trained now.
            active[0]._disable_adapters = False  # type: ignore[assignment]

    def penalty(self) -> Tensor | None:
        """See :meth:`Acting.penalty`: none, but something to begin at."""
        return nothing(p for index in self.active for p in self.trained[self.names[index]])

    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`: between steps all count as trained, as they are."""
        for own in self.trained.values():
            for parameter in own:
                parameter.requires_grad_(True)

    def _frozen(self) -> list[nn.Parameter]:
        """What no active layer has."""
        active = {id(p) for index in self.active for p in self.trained[self.names[index]]}
        return [p for own in self.trained.values() for p in own if id(p) not in active]

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        return {"generator": self.generator.get_state(), "of": self.of, "active": self.active}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        self.generator.set_state(state["generator"])
        self.of, self.active = state["of"], list(state["active"])
