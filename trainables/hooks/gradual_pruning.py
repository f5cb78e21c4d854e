"""Sparsity that grows while the weights under it are trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from compression.acting import Acting, Moment
from compression.adapters import Adapter, QuantizedMerge
from compression.adapters.merged.latent import LatentLayer, latent_layers
from compression.methods import Method
from compression.methods.chain import split
from compression.registry import FloatRange, Values, knob
from trainables.hooks.base import HOOKS, Hook, Scene

_ANY = (2, 2)


@HOOKS.register("gradual_pruning")
class GradualPruning(Hook):
    """Gradual pruning: sparsity grows by a cubic law to the method's own, in training.

    ``s_t = s + (s_0 - s) (1 - t)^3`` from s_0 = ``initial`` to s, that of the method; t goes from 0
    at the share ``begin`` of the training to 1 at ``end``. Under ``quantized_merge`` the method
    chooses anew in every step which entries of ``W + s B A`` it keeps, and all of them are trained
    through it, so entries can come back. Where a method keeps so many of each tile, the numbers are
    whole. The file shrinks as it goes: only from ``end`` on it has the size that the method asks
    for.

    Source: Zhu and Gupta, To prune, or not to prune, arXiv 1710.01878.
    """

    changes_base = True
    initial: float = knob(
        0.0, FloatRange(0.0, 1.0), Values((0.0, 0.3)), help="s_0; at most the method's own"
    )
    begin: float = knob(0.0, FloatRange(0.0, 1.0), help="share of the training before it")
    end: float = knob(
        0.75, FloatRange(0.0, 1.0), Values((0.5, 0.75)), help="share of the training at its end"
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        numbers = all(isinstance(value, int | float) for value in (self.begin, self.end))
        if numbers and not self.begin < self.end:
            yield f"{self.name}: ends at {self.end:g}, not after it begins, at {self.begin:g}"

    def refusals(self, methods: Collection[Method], adapters: Collection[Adapter]) -> Iterator[str]:
        """See :meth:`Hook.refusals`: adapters that pack nothing anew, methods not sparse."""
        for name in dict.fromkeys(a.name for a in adapters if not isinstance(a, QuantizedMerge)):
            yield f"adapter {name} does not choose anew what is kept: use {QuantizedMerge.name}"
        for method in dict.fromkeys(split(method)[1] for method in methods):
            if method.density(_ANY) is None:
                yield f"method {method.name} has no sparsity to be reached: use magnitude"

    @property
    def settled_at(self) -> float:
        """See :class:`Hook`: at the end of the pruning."""
        return self.end

    def start(self, scene: Scene) -> Acting:
        """See :class:`Hook`.

        Raises:
            InvalidSetting: an adapter or a method that it cannot act on.
        """
        self.check(scene)
        layers = latent_layers(scene.model, scene.adapted).values()
        return _Pruning(list(layers), self)


class _Pruning(Acting):
    resizes = rewires = True

    def __init__(self, layers: list[LatentLayer], knobs: GradualPruning) -> None:
        self.layers, self.knobs = layers, knobs
        self._set(0.0)

    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`: what is kept from here on."""
        self._set((moment.step + 1) / moment.steps)

    def settled(self, moment: Moment) -> bool:
        """See :meth:`Acting.settled`."""
        return moment.progress >= self.knobs.end

    def _set(self, progress: float) -> None:
        for layer in self.layers:
            layer.kept.fill_(self._kept(layer, progress))

    def _kept(self, layer: LatentLayer, progress: float) -> int:
        """How many values a layer keeps."""
        begin, end = self.knobs.begin, self.knobs.end
        own = layer.own.density(tuple(layer.latent.shape))
        if own is None or progress >= end:
            return layer.own_kept()
        kept, of = own
        final = 1 - kept / of
        done = max(0.0, progress - begin) / (end - begin)
        sparsity = final + (min(self.knobs.initial, final) - final) * (1 - done) ** 3
        return max(kept, min(of - 1, round((1 - sparsity) * of)))
