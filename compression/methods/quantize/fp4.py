"""Four-bit floating point."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.methods.base import METHODS
from compression.methods.quantize.codebook import Codebook


@METHODS.register("fp4")
class Float4(Codebook):
    """Floats of one sign, two exponent and one mantissa bit, scaled by a block's largest weight.

    ``0, 1/2, 1, 3/2, 2, 3, 4, 6`` and their negatives, over 6: fifteen values, as -0 is 0.

    Stored bytes: ``ceil(m n / 2) + b m g`` with ``g = ceil(n / group_size)`` blocks a row and b
    bytes a scale; with ``double``, one byte a scale and b for every 256 of them.

    Source: E2M1 of the OCP Microscaling formats, arXiv 2310.10537.
    """

    @classmethod
    def table(cls) -> Tensor:
        """See :meth:`Codebook.table`."""
        code = torch.arange(8)
        exponent, mantissa = code >> 1, (code & 1) / 2
        normal = 2.0 ** (exponent - 1) * (1 + mantissa)
        values = torch.where(exponent > 0, normal, mantissa)
        return torch.cat([-values[1:].flip(0), values]) / values[-1]
