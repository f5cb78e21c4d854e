"""The adapter reads the directions in which its inputs vary most."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, live_rows
from compression.stats import LayerStats, inputs_of


@INITS.register("eva")
class EVA(Init):
    """A = the leading right singular vectors of the layer's inputs, and B = 0.

    They are the leading eigenvectors of the second moment H (not centred), orthonormal rows: no
    other A (r, n) with such rows holds more of ``E ||A x||^2``. Directions without inputs are
    random. The start is the compressed model itself, as with ``zeros``. The paper also gives each
    layer a rank by the variance explained; here the rank is the rule's.

    Source: Paischer et al., EVA, arXiv 2410.07170.
    """

    guarantee = "frobenius"
    needs = frozenset({"inputs"})

    def start(
        self,
        weight: Tensor,
        compress: Compress,
        rank: int,
        stats: LayerStats | None,
        generator: torch.Generator | None,
    ) -> Start:
        """See :meth:`Init.start`."""
        moment = inputs_of(stats).pooled().float()
        values, vectors = torch.linalg.eigh(moment)
        values, rows = values[-rank:].flip(0), vectors[:, -rank:].flip(1).T
        alive = values > torch.finfo(values.dtype).eps * len(moment) * values[0]
        a = live_rows(rows, alive, generator)
        return Start(compress(weight), weight.new_zeros(len(weight), rank), a)
