"""Fewer channels, chosen by what low-rank gradients say."""

from __future__ import annotations

from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Plan, Scene
from compression.methods.structured.coupling import Group
from compression.methods.structured.removal import energy_by_channel, plan_removal
from compression.methods.structured.structural import Structural
from compression.registry import FloatRange, IntRange, Values, knob
from compression.second_moments import eigenvectors
from compression.stats import gradients_of


@METHODS.register("loraprune")
class LoRAPrune(Structural):
    """Removes the channels whose loss would change least, seen through gradients of LoRA only.

    ``score = sum (W o E)^2`` over the weights that write and read a channel, with
    ``E = dL/dB A + B dL/dA`` in place of the gradient of W. In one shot, before any training, the
    adapters are virtual: B = 0, so that W + BA is W and ``E = dL/dB A = G A^T A``. Rounding and
    coupling as in ``channels``; nothing is rebuilt: what is removed is removed as masked.

    Different from the paper: there A starts as noise and is trained, and E is averaged over the
    steps of that training. Without it the E of such an A would be noise too, so A (r, n) holds the
    r leading right singular vectors of G, the mean gradient over the calibration examples: of all
    adapters of rank r the one that sees most of G, in the Frobenius norm.

    Stored bytes: ``4 m' n'`` for the m' outputs and n' inputs that stay, and the edits in the
    header.

    Zhang et al.: LoRAPrune, arXiv 2305.18403.
    """

    catalogue_id = "001-97"
    kinds = WITH_INPUTS
    needs = frozenset({"gradients"})
    keep_ratio: float = knob(
        0.75,
        FloatRange(0.01, 1.0),
        Values((0.5, 0.625, 0.75, 0.875)),
        help="share of the channels of a group that stay, rounded up",
    )
    rank: int = knob(8, IntRange(1, 1 << 12), help="rank of the virtual adapters")

    def plan(self, scene: Scene) -> Plan:
        """See :meth:`Method.plan`."""
        importance = {}
        for name, layer in scene.layers.items():
            weight: Tensor = layer.weight  # type: ignore[assignment]
            seen = low_rank_gradient(gradients_of(scene.stats.get(name)).mean, self.rank)
            importance[name] = (weight.detach().float().flatten(1) * seen).square()

        def scores(group: Group) -> Tensor:
            return energy_by_channel(group, importance, scene.model)

        return plan_removal(scene, self.examples(scene), self.keep_ratio, scores, lambda _: {})


def low_rank_gradient(gradient: Tensor, rank: int) -> Tensor:
    """``(G A^T) A`` (m, n) from what an adapter at B = 0 sees of G (m, n): ``dL/dB = G A^T``.

    A (r, n) holds the leading right singular vectors of G: no matrix of rank r is nearer to G.
    """
    g = gradient.double()  # squared below
    if len(g) < g.shape[1]:  # by the left ones, of which there are fewer: the same product
        left = eigenvectors(g @ g.T)[0][:, :rank]
        return (left @ (left.T @ g)).float()
    right = eigenvectors(g.T @ g)[0][:, :rank]
    return (g @ right @ right.T).float()
