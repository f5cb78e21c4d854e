"""Layers that matter less are pruned more."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method, Plan, Scene, Shape, Slot
from compression.methods.sparsify.sparse_form import SPARSITY, Unstructured
from compression.methods.sparsify.wanda import importance
from compression.registry import FloatRange, Scalar, Values, knob
from compression.second_moments import by_group
from compression.stats import LayerStats, inputs_of

_HALVINGS = 100
_MISSED = 0.005  # how far from the share asked the one reached is worth a note


@METHODS.register("dlp")
class DLP(Method):
    """Layer sparsities from relative importance, then pruning by another method.

    The importance of a layer is the median of ``|w_ij| rms(x_j)``; d_l in [0, 1] is how far it
    is below the greatest, least = 1. Layers get ``s_l = c + 2 alpha d_l``, within 0 and
    ``1 - 1 / n_l``, with c such that the mean of s_l over all weights is ``sparsity`` before
    ``local`` rounds: ``wanda`` keeps a whole number in each row, ``sparsegpt`` in each group of
    inputs, at least one, ``magnitude`` in each layer. Where that changes the mean by more than
    0.005, as in depthwise layers, the plan's notes name what is reached. alpha = 0 prunes all
    alike. A layer on its own gets ``sparsity``.

    Stored bytes: those of the method that prunes, ``local``, which is what is stored.

    Source: Chen et al., DLP, catalogue 001-159.
    """

    catalogue_id = "001-159"
    kinds = WITH_INPUTS
    needs = frozenset({"inputs"})
    refills = True  # as what it resolves to does
    sparsity: float = knob(
        SPARSITY,
        FloatRange(0.0, 1.0),
        Values((0.5, 0.7, 0.8, 0.9)),
        help="share of all entries that become zero",
    )
    alpha: float = knob(
        0.15, FloatRange(0.0, 0.5), Values((0.05, 0.15)), help="half the spread of sparsities"
    )
    local: str = knob(
        "wanda",
        Values(("wanda", "magnitude", "sparsegpt")),
        Values(("wanda", "sparsegpt")),
        help="method that prunes a layer",
    )
    value_dtype: str = knob(
        "float32", Values(("float32", "float16")), help="storage format of the values"
    )

    @property
    def may_go_first(self) -> bool:
        """As what it resolves to."""
        return self._local(self.sparsity).may_go_first

    def plan(self, scene: Scene) -> Plan:
        """See :meth:`Method.plan`."""
        medians, sizes = [], []
        for name, layer in scene.layers.items():
            weight: Tensor = layer.weight.detach().float()  # type: ignore[operator]
            inputs = inputs_of(scene.stats.get(name))
            medians.append(importance(by_group(weight, len(inputs.mean)), inputs).median())
            sizes.append(weight.numel())
        found = layer_sparsities(
            torch.stack(medians).cpu(), torch.tensor(sizes), self.sparsity, self.alpha
        )
        specs = {name: self._local(s) for name, s in zip(scene.layers, found.tolist(), strict=True)}
        return Plan(specs, notes=self._missed(scene, specs))

    def _missed(self, scene: Scene, specs: Mapping[str, Unstructured]) -> tuple[str, ...]:
        """What becomes zero, if it is not what was asked: rows and groups keep whole numbers."""
        kept = total = 0
        for name, method in specs.items():
            weight: Tensor = scene.layers[name].weight  # type: ignore[assignment]
            groups = len(inputs_of(scene.stats.get(name)).mean)
            kept += method.reached(tuple(weight.shape), groups)
            total += weight.numel()
        reached = 1 - kept / total if total else self.sparsity
        if abs(reached - self.sparsity) <= _MISSED:
            return ()
        text = f"{self.name}: sparsity {reached:.3f} of {self.sparsity:g} asked"
        return (f"{text}; {self.local} keeps whole numbers of values, at least one",)

    def _local(self, sparsity: float) -> Unstructured:
        args: dict[str, Scalar] = {"sparsity": sparsity, "value_dtype": self.value_dtype}
        found: Unstructured = METHODS.build(self.local, args)  # type: ignore[assignment]
        return found

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        return self._local(self.sparsity).encode(weight, stats)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        return self._local(self.sparsity).decode(tensors, shape)

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`.

        Raises:
            InvalidSetting: always; see the method that it resolves to.
        """
        return self._local(self.sparsity).layout(shape)

    def nominal_bits(self, shape: Shape) -> int:
        """As :meth:`layout`."""
        return self._local(self.sparsity).nominal_bits(shape)


def layer_sparsities(importances: Tensor, sizes: Tensor, target: float, alpha: float) -> Tensor:
    """``clamp(c + 2 alpha d_l, 0, 1 - 1 / n_l)`` with mean ``target`` over all weights, (layers,).

    c is found by halving: the mean grows with it. Where no c reaches the target, each layer keeps
    one weight.
    """
    importances, sizes = importances.double(), sizes.double()
    low, high = importances.min(), importances.max()
    below = (high - importances) / (high - low) if high > low else torch.zeros_like(importances)

    def sparsities(c: float) -> Tensor:
        return (c + 2 * alpha * below).clamp(min=0).minimum(1 - 1 / sizes)

    ends = [-1.0, 1.0]
    for _ in range(_HALVINGS):
        middle = sum(ends) / 2
        ends[int(sparsities(middle) @ sizes >= target * sizes.sum())] = middle
    return sparsities(ends[1])
