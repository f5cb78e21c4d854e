"""The adapter reads the directions in which its inputs vary most."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, live_rows, random_rows
from compression.inits.weighted import dominant
from compression.stats import LayerStats, inputs_of

STEPS = 50


@INITS.register("eva")
class EVA(Init):
    """A = the leading right singular vectors of the layer's inputs, and B = 0.

    They are the leading eigenvectors of the second moment H (not centred), orthonormal rows: no
    other A (r, n) with such rows holds more of ``E ||A x||^2``. Found by orthogonal iteration with
    2 r + 8 vectors, as n goes into the thousands. Directions without inputs are random. The start
    is the compressed model itself, as with ``zeros``. The paper also gives each layer a rank by
    the variance explained; here the rank is the rule's.

    Source: Paischer et al., EVA, arXiv 2410.07170.
    """

    guarantee = "frobenius"
    fixes_alpha = False
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
        width = min(2 * rank + 8, len(moment))
        first = random_rows(width, len(moment), generator).to(moment).T
        basis = dominant(moment, first, STEPS)
        values, vectors = torch.linalg.eigh(basis.T @ moment @ basis)
        values, rows = values[-rank:].flip(0), (basis @ vectors[:, -rank:].flip(1)).T
        alive = values > torch.finfo(values.dtype).eps * len(moment) * values[0]
        a = live_rows(rows, alive, generator)
        return Start(compress(weight), weight.new_zeros(len(weight), rank), a)
