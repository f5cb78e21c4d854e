"""Adapters whose delta is sparse or structured in another basis: PEFT's C3A, FourierFT, WaveFT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from compression import philox
from compression.adapters.base import ADAPTERS
from compression.adapters.bridge.bridged import Bridged
from compression.adapters.bridge.peft_layers import divisors
from compression.methods.base import Shape, matrix_shape
from compression.registry import FloatRange, IntRange, Values, knob


def cells(stream: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Rows and columns (2, k) of k different cells of a matrix (m, n)."""
    rows, columns = matrix_shape(shape)
    flat = philox.subset(stream, tensor.shape[1], rows * columns)
    return torch.stack((flat // columns, flat % columns)).to(tensor)


@ADAPTERS.register("c3a")
class C3a(Bridged):
    """C3A: ``y = W x + C x / n``, C a matrix of circulant blocks, by FFT.

    W is (m, n), each b x b block of C a circulant of b trained values, 0 at the start: ``m n / b``
    values for a delta of rank up to min(m, n). Stored bytes, at s a value: ``s m n / b``.

    Source: Chen et al., Parameter-Efficient Fine-Tuning via Circular Convolution, arXiv 2407.19342.
    """

    catalogue_id = "001-67"
    peft_type = "C3A"
    ranked = scaled = False
    # The delta is divided by n. The paper takes 0.1 to 0.3, PEFT's comparison 0.3 (LoRA: 1e-4).
    lr_factor = 300.0
    block_size: int = knob(
        16,
        IntRange(1, 2**16),
        search=Values((8, 16, 32)),
        help="side of a circulant block; divides all ins and outs",
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`: True is PEFT's word for zeros."""
        return {"block_size": self.block_size, "init_weights": True}

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        if any(side % self.block_size for side in shape):
            fit = divisors(*shape)
            yield f"block_size {self.block_size} must divide both sides; it may be one of {fit}"

    def macs(self, shape: Shape, rank: int) -> int:
        """``2 (m + n) log2 b + 4 m n / b``: FFTs of all blocks, products of their spectra."""
        (rows, columns), size = matrix_shape(shape), self.block_size
        transforms = 2 * (rows + columns) * math.ceil(math.log2(size))
        return transforms + 4 * rows * columns // size


@dataclass(frozen=True)
class Spectral(Bridged):
    """A delta with ``n_frequency`` trained coefficients at seeded places of another basis."""

    n_frequency: int = knob(
        128,
        IntRange(1, 2**31 - 1),
        search=IntRange(32, 1024, log=True),
        help="trained coefficients of a layer, at most m n",
    )
    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of the places of the coefficients")

    ranked = scaled = False

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        if self.n_frequency > (most := math.prod(shape)):
            yield f"n_frequency {self.n_frequency} is above its {most} weights"

    def macs(self, shape: Shape, rank: int) -> int:
        """``m n``: the delta is dense."""
        return math.prod(shape)


@ADAPTERS.register("fourierft")
class Fourierft(Spectral):
    """FourierFT: ``y = W x + scaling Re(ifft2(F)) x``, F of ``n_frequency`` trained entries.

    F (m, n) is 0 elsewhere, and at the start everywhere; the places of its entries are drawn for
    each layer from ``seed``. Stored bytes, at b a value: ``b n_frequency`` a layer, and 8 in all
    for the checksum of the places.

    Source: Gao et al., FourierFT, arXiv 2405.03003.
    """

    peft_type = "FOURIERFT"
    seeded = {"indices": cells}
    # ifft2 divides by m n. The paper takes up to 1e-1 where LoRA takes 4e-4; the best of
    # docs/adapters.md, on small layers, are twice LoRA's: in between.
    lr_factor = 10.0
    scaling: float = knob(
        150.0,
        FloatRange(1e-3, 1e6),
        search=FloatRange(10.0, 300.0, log=True),
        help="what the delta is multiplied by",
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {
            "n_frequency": self.n_frequency,
            "scaling": self.scaling,
            "init_weights": True,
        }


@ADAPTERS.register("waveft")
class Waveft(Spectral):
    """WaveFT: ``y = W x + scaling idwt2(F) x``, F of ``n_frequency`` trained wavelet coefficients.

    One level of the inverse wavelet transform in two dimensions. F (m, n) is 0 elsewhere, and at
    the start everywhere; the places are drawn for each layer from ``seed``. Stored bytes, at b a
    value: ``b n_frequency`` a layer, and 8 in all for the checksum of the places, and of the
    wavelet's filters, which are PEFT's.

    Source: Bilican et al., Exploring Sparsity for Parameter Efficient Fine Tuning Using Wavelets,
    arXiv 2505.12532.
    """

    peft_type = "WAVEFT"
    seeded = {"waveft_indices": cells}
    scaling: float = knob(
        25.0,
        FloatRange(1e-3, 1e6),
        search=FloatRange(5.0, 100.0, log=True),
        help="what the delta is multiplied by",
    )
    wavelet: str = knob(
        "db1", Values(("db1", "db2", "db4", "sym4", "coif1")), help="the wavelet, db1 is Haar's"
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {
            "n_frequency": self.n_frequency,
            "scaling": self.scaling,
            "wavelet_family": self.wavelet,
            "init_weights": True,
        }

    def witnesses(self, wrapped: nn.Module) -> list[Tensor]:
        """See :meth:`Bridged.witnesses`: the wavelet's filters, and what PEFT cuts off for them."""
        return list(_filters(self.wavelet))


@cache
def _filters(wavelet: str) -> tuple[Tensor, Tensor]:
    """The four filters (4, length) of a wavelet, and rows and columns of padding (2,)."""
    from peft.tuners.waveft.constants import WAVELET_REDUCTIONS
    from peft.tuners.waveft.wavelet import Wavelet

    padding: tuple[int, int] = WAVELET_REDUCTIONS[wavelet]
    return torch.tensor(Wavelet(wavelet).filter_bank), torch.tensor(padding)
