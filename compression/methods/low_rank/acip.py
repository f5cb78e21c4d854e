"""Low rank with the order in which its directions may go, one for all layers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, RankLimit, Shape, Slot
from compression.methods.levels import Nested
from compression.methods.low_rank.factors import Factors, halves, thin_svd
from compression.stats import LayerStats


@METHODS.register("acip")
class AnyCompression(Factors):
    """``svd`` with a score for each direction: any smaller size is a cut at one score.

    ``W ~ sum_i l_i r_i``; the scores of all layers are one scale. Before training that of direction
    i is ``sigma_i^2 / (m + n)``, the squared error that leaving it out adds for each value that is
    saved, so cuts are those of ``svd``. Adapter ``acip`` learns them. At the full rank min(m, n) it
    is W itself, to rounding; as published, all of them are kept until a size is chosen.

    Stored bytes: ``b r (m + n) + 4 r`` with b bytes a value.

    Source: Genzel et al., Choose Your Model Size, arXiv 2502.01717.
    """

    catalogue_id = "001-76"
    crops_inner = False
    level_errors = Nested.level_errors  # what goes need not be the last columns

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        u, s, vh = thin_svd(weight.flatten(1))
        squares = s.double().square()
        method, tensors = self._stored(*halves(u, s, vh, self.pick(squares)))
        rank = tensors["right"].shape[0]
        scores = squares[:rank] / sum(weight.flatten(1).shape)
        return method, {**tensors, "scores": scores.float()}

    def rank_limit(self, shape: Shape) -> RankLimit | None:
        """None: until it is cut, a file may hold more than the weight."""
        return None

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`.

        Raises:
            InvalidSetting: the rank is still to be chosen by energy.
        """
        scores = Slot(torch.float32, (self._rank(shape),), "indices")
        return {**super().layout(shape), "scores": scores}

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """Both factors."""
        return {name: slot.shape for name, slot in super().layout(shape).items()}

    def nominal_bits(self, shape: Shape) -> int:
        """Every value of the factors, in the bits of its dtype."""
        return sum(8 * slot.nbytes for slot in super().layout(shape).values())

    def at_level(
        self, tensors: Mapping[str, Tensor], shape: Shape, level: Method
    ) -> dict[str, Tensor]:
        """See :meth:`Nested.at_level`: the directions of the highest scores, in their old order."""
        rank = level.layout(shape)["scores"].shape[0]
        kept = _falling(tensors["scores"])[:rank].sort().values
        return {
            "left": tensors["left"][:, kept].contiguous(),
            "right": tensors["right"][kept].contiguous(),
            "scores": tensors["scores"][kept],
        }

    def level_costs(
        self, tensors: Mapping[str, Tensor], shape: Shape, levels: Sequence[Method]
    ) -> list[float]:
        """See :meth:`Nested.level_costs`: the score of each direction that goes, times its bytes.

        So the cost of a byte is the score, and layers go down in the order of the scores of all.
        """
        each = sum(slot.nbytes for slot in self.layout(shape).values()) / self._rank(shape)
        rising = tensors["scores"].double().sort().values.clamp(min=0)
        added = (each * rising).cumsum(0).tolist()
        gone = (self._rank(shape) - level.layout(shape)["scores"].shape[0] for level in levels)
        return [added[count - 1] for count in gone]


def _falling(scores: Tensor) -> Tensor:
    """Indices by falling score; of equals the first directions stay."""
    return scores.argsort(descending=True, stable=True)
