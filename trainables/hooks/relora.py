"""Deltas that are merged and begun anew."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from compression.acting import Acting, Moment
from compression.adapters import ADAPTERS, Adapter
from compression.adapters.merged.latent import LatentLayer, latent_layers
from compression.methods import Method
from compression.registry import FloatRange, Values, knob
from trainables.hooks.base import HOOKS, Hook, Scene, ends_period, states


@HOOKS.register("relora")
class ReLora(Hook):
    """ReLoRA: after every ``every`` of the training each delta goes into its weight, and restarts.

    B is 0 then and A another random one, so no output changes; after N merges the weight can have
    moved by a matrix of rank N r. The optimizer's moments of A and B lose the share ``prune`` of
    their entries, the smallest ones; at 1, and where moments are not kept entry by entry, all that
    it keeps of them is forgotten, its count of steps too. The last merge comes before the end.

    Only a weight that is kept in floating point can take a delta: that of ``quantized_merge`` or
    ``lors``. Over method none ``quantized_merge`` is LoRA, merged. The published schedule is
    ``cosine_restarts``, with as many cycles as there are periods; its prune is 0.99.

    Source: Lialin et al., ReLoRA, arXiv 2307.05695, catalogue 001-124.
    """

    catalogue_id = "001-124"
    changes_base = True
    every: float = knob(
        0.25, FloatRange(0.0, 1.0), Values((0.1, 0.25, 0.5)), help="period, share of the training"
    )
    prune: float = knob(
        1.0, FloatRange(0.0, 1.0), Values((0.0, 0.99, 1.0)), help="share of moments set to zero"
    )

    def refusals(self, methods: Collection[Method], adapters: Collection[Adapter]) -> Iterator[str]:
        """See :meth:`Hook.refusals`: adapters without a weight of their own to merge into."""
        able = " or ".join(name for name in ADAPTERS if ADAPTERS[name].merges)
        for name in dict.fromkeys(a.name for a in adapters if not a.merges):
            yield f"the delta of adapter {name} cannot be merged while it is trained: use {able}"

    def start(self, scene: Scene) -> Acting:
        """See :class:`Hook`.

        Raises:
            InvalidSetting: an adapter that cannot be merged.
        """
        self.check(scene)
        return _Restarting(scene, self)


class _Restarting(Acting):
    def __init__(self, scene: Scene, knobs: ReLora) -> None:
        self.scene, self.knobs = scene, knobs
        self.trained = scene.trained()
        self.generator = scene.generator(knobs.name)

    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`."""
        last = moment.step + 1 >= moment.steps
        if last or not ends_period(moment, self.knobs.every):
            return
        for name, entry in self.scene.adapted.items():
            entry.adapter.fold(self.scene.model, name, self.generator)
        for state in states(self.scene.optimizer):
            for own in self.trained.values():
                for parameter in own:
                    if parameter in state and not self._pruned(state[parameter], parameter):
                        del state[parameter]

    @torch.no_grad()
    def _pruned(self, state: dict[str, Any], parameter: Tensor) -> bool:
        """Prune moments in place; False where these are to be forgotten as a whole."""
        share, tensors = self.knobs.prune, [v for v in state.values() if isinstance(v, Tensor)]
        moments = [tensor for tensor in tensors if tensor.shape == parameter.shape]
        by_entry = all(tensor.numel() == 1 for tensor in tensors if tensor.shape != parameter.shape)
        if share == 1 or not by_entry or "z" in state:  # of schedule_free, a copy of the parameter
            return False
        for tensor in moments:
            smallest = tensor.abs().flatten().topk(round(share * tensor.numel()), largest=False)
            tensor.view(-1)[smallest.indices] = 0.0
        return True

    def _layers(self) -> list[LatentLayer]:
        return list(latent_layers(self.scene.model, self.scene.adapted).values())

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        folds = [layer.folds for layer in self._layers()]
        return {"generator": self.generator.get_state(), "folds": folds}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        self.generator.set_state(state["generator"])
        for layer, folds in zip(self._layers(), state["folds"], strict=True):
            layer.folds = folds
