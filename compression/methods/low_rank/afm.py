"""Low rank by the principal directions of a layer's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method
from compression.methods.low_rank.factors import Factors
from compression.registry import Values, knob
from compression.second_moments import damped, output_directions
from compression.stats import LayerStats, inputs_of


@METHODS.register("afm")
class AtomicFeatureMimicking(Factors):
    """Outputs projected on their principal directions: ``W_r = V_r (V_r^T W)``.

    As published, V_r are eigenvectors of the outputs' covariance about their mean, and the bias
    makes up for the mean. A method stores weights only and leaves the bias, so there are two ways.
    ``mean=kept``: one of the r directions is that of the mean output ``W E[x]``, which stays
    exact, the other r - 1 are principal ones of the covariance across it. ``mean=free``: those of
    the second moment ``W E[x x^T] W^T``, the least mean squared error there is at rank r, and as
    a matrix the same as ``whitened_svd`` without damping. Either way the mean squared change of the
    outputs is the sum of the eigenvalues left out, and none at r = m.

    Stored bytes: ``b r (m + n)`` with b bytes a value.

    Source: Yu et al., Unified Low-rank Compression Framework for CTR Prediction, arXiv 2405.18146.
    """

    catalogue_id = "001-31"
    kinds = WITH_INPUTS
    needs = frozenset({"inputs"})
    mean: str = knob(
        "kept", Values(("kept", "free")), Values(("kept", "free")), help="of the outputs"
    )

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        inputs = inputs_of(stats)
        matrix, moment = weight.flatten(1).double(), damped(inputs.pooled().double(), 0.0)
        mean = inputs.mean.double().mean(0)
        if self.mean == "free" or not (matrix @ mean).any():
            v, squares = output_directions(matrix, moment)
        else:
            v, squares = _about_mean(matrix, moment, mean)
        left = v[:, : self.pick(squares)]
        return self._stored(left, left.T @ matrix)


def _about_mean(matrix: Tensor, moment: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Direction of the mean output, then principal ones across it, and what each one holds."""
    first = torch.nn.functional.normalize(matrix @ mean, dim=0)[:, None]
    across = matrix - first @ (first.T @ matrix)
    rest, squares = output_directions(across, moment - mean.outer(mean))
    along = first.T @ matrix
    held = (along @ moment @ along.T).flatten()
    # Directions that hold nothing may repeat the first one: QR puts others in their place.
    v = torch.linalg.qr(torch.cat([first, rest], 1)[:, : min(matrix.shape)]).Q
    return v, torch.cat([held, squares])[: v.shape[1]]
