"""Low rank by the inputs and outputs that a layer really uses."""

from __future__ import annotations

from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method
from compression.methods.low_rank.factors import Factors
from compression.registry import FloatRange, Values, knob
from compression.second_moments import damped, eigenvectors, output_directions
from compression.stats import LayerStats, inputs_of


@METHODS.register("utilized_rank")
class UtilizedRank(Factors):
    """W between projections on the subspaces of its inputs and outputs: ``P_out W P_in``.

    Each projection is on the fewest principal directions that hold a share ``energy`` of the
    second moment, ``E[x x^T]`` or ``W E[x x^T] W^T``; about zero, not the mean, as there is no new
    bias. The rank stored is the lesser of the two. At an energy of 1 outputs on calibration inputs
    do not change. A rank that is given is that of both. Groups of a convolution share the mean of
    their moments.

    Stored bytes: ``b r (m + n)`` with b bytes a value.

    Source: Garg et al., Revealing the Utilized Rank of Subspaces of Learning in Neural Networks,
    arXiv 2407.04797.
    """

    catalogue_id = "001-5"
    kinds = WITH_INPUTS
    needs = frozenset({"inputs"})
    energy: float = knob(
        0.99,
        FloatRange(0.0, 1.0),
        Values((0.9, 0.95, 0.99, 0.999)),
        when={"rank": (0,)},
        help="share of the squared norm of inputs, and of outputs, that is kept",
    )

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        matrix = weight.flatten(1).double()
        moment = damped(inputs_of(stats).pooled().double(), 0.0)
        out, squares_out = output_directions(matrix, moment)
        into, squares_in = eigenvectors(moment)
        out, into = out[:, : self.pick(squares_out)], into[:, : self.pick(squares_in)]
        core = out.T @ matrix @ into
        if out.shape[1] <= into.shape[1]:
            return self._stored(out, core @ into.T)
        return self._stored(out @ core, into.T)
