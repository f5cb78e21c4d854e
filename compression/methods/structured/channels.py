"""Fewer channels, chosen by size or by LASSO, and least squares for the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Plan, Scene
from compression.methods.structured.coupling import Group, Masks, per_column
from compression.methods.structured.removal import (
    energy_by_channel,
    least_squares,
    plan_removal,
    reader_gram,
    shares,
)
from compression.methods.structured.structural import Structural
from compression.registry import FloatRange, Values, knob
from compression.second_moments import by_group
from compression.stats import inputs_of

_PATH, _STEPS = 16, 40


@METHODS.register("channels")
class ChannelPruning(Structural):
    """A share of the channels stays, the others are removed; readers are rebuilt.

    Channels that residual connections couple go together, ``ceil(keep_ratio * channels)`` of each
    group stay. ``magnitude`` keeps those with the largest share of the squared weights that write
    and read them; ``lasso`` those whose factor b_i is last to vanish on the path of
    ``min_b 1/2 ||Y - sum_i b_i X_i W_i^T||^2 + l ||b||_1``, Y the outputs of all layers that read
    them. Then each layer that reads them gets ``V = W H_:S H_SS^-1`` of its inputs that stay, the
    least squares solution. Inputs of the model and its outputs stay whole.

    Stored bytes: ``4 m' n'`` for the m' outputs and n' inputs that stay, and the edits in the
    header.

    He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural Networks, arXiv 1707.06168
    (one shot: all layers from the moments of the dense model); groups by torch-pruning (Fang et
    al., arXiv 2301.12900).
    """

    catalogue_id = "001-35"
    kinds = WITH_INPUTS
    needs = frozenset({"inputs"})
    keep_ratio: float = knob(
        0.75,
        FloatRange(0.01, 1.0),
        Values((0.5, 0.625, 0.75, 0.875)),
        help="share of the channels of a group that stay, rounded up",
    )
    criterion: str = knob(
        "lasso",
        Values(("lasso", "magnitude")),
        Values(("lasso", "magnitude")),
        help="how the channels that stay are chosen",
    )

    def plan(self, scene: Scene) -> Plan:
        """See :meth:`Method.plan`."""

        def scores(group: Group) -> Tensor:
            gram = _gram(scene, group) if self.criterion == "lasso" else None
            if gram is not None:
                return lasso_order(gram)
            return energy_by_channel(group, shares(group, scene.model), scene.model)

        def rebuild(masks: Masks) -> dict[str, Tensor]:
            return _rebuilt(scene, masks.inputs)

        return plan_removal(scene, self.examples(scene), self.keep_ratio, scores, rebuild)


def _gram(scene: Scene, group: Group) -> Tensor | None:
    """What the channels add to the outputs of all layers that read them, each counting the same.

    None where no such layer was seen to work: then size decides.
    """
    total = torch.zeros(group.size, group.size)
    for name in group.inputs.keys() & scene.layers.keys():
        gram = reader_gram(group, name, scene.layers[name], inputs_of(scene.stats.get(name)))
        if (power := gram.sum()) > 0:
            total += (gram / power).cpu()
    return total if total.any() else None


def lasso_order(gram: Tensor) -> Tensor:
    """Scores (c,): how long b_i stays on the path of ``min_b 1/2 b^T K b - b^T K 1 + l ||b||_1``.

    K is the Gram matrix (c, c) of the channels' contributions. l goes from where all vanish to a
    thousandth of it; among equals the larger b_i at the end is worth more.
    """
    tiny = torch.finfo(torch.float32).tiny
    k = gram.float() / gram.abs().max().clamp_min(tiny)
    goal = k.sum(1)
    step = 1 / torch.linalg.eigvalsh(k)[-1].clamp_min(tiny)
    b = torch.zeros_like(goal)
    scores = torch.zeros_like(goal)
    for weight in (goal.abs().max() * torch.logspace(0, -3, _PATH)).tolist():
        b = _lasso(k, goal, weight, b, step)
        scores += b != 0
    return scores + b.abs() / b.abs().max().clamp_min(tiny) / 2


def _lasso(k: Tensor, goal: Tensor, weight: float, start: Tensor, step: Tensor) -> Tensor:
    """Accelerated proximal gradient from ``start``."""
    b = ahead = start
    momentum = 1.0
    for _ in range(_STEPS):
        moved = ahead - step * (k @ ahead - goal)
        new = moved.sign() * (moved.abs() - step * weight).clamp_min(0)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / following * (new - b)
        b, momentum = new, following
    return b


def _rebuilt(scene: Scene, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Least squares for the layers of the rule that lose inputs; others keep their values."""
    found = {}
    for name in masks.keys() & scene.layers.keys():
        layer = scene.layers[name]
        weight: Tensor = layer.weight  # type: ignore[assignment]
        stays = per_column(layer, masks[name]).to(weight.device)
        w = by_group(weight.detach(), len(stays))
        moment = inputs_of(scene.stats.get(name)).second_moment
        left = least_squares(w, moment, stays).to(weight.dtype)
        found[name] = left.reshape(len(weight), -1, *weight.shape[2:])
    return found
