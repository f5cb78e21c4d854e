"""Tuning the leading singular vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import Chain, Chained, ChainedAdapter, top_svd
from compression.methods.base import Method, Shape, matrix_shape
from compression.registry import Values, knob


@ADAPTERS.register("spectral_adapter")
class SpectralAdapter(ChainedAdapter):
    """Spectral Adapter: the r leading singular vectors of the base are added to, or rotated.

    ``mode=add``: ``W' = (U + P) S (V + Q)^T + W_rest``, P (m, r) and Q (n, r) trained from 0.
    ``mode=rotate``: ``W' = U R S T^T V^T + W_rest``, R and T (r, r) rotations
    ``(I - K)(I + K)^-1``, ``K = X - X^T``, X trained from 0: singular values stay. Either starts at
    the base exactly: only ``W' - W`` is computed. U, S and V, of the base as it is decoded, are
    stored, for they cannot be computed again bit for bit. Stored bytes:
    ``b (2 r (m + n) + r)`` for add, of which one half is trained and was all that was published;
    ``b (r (m + n) + 2 r^2 + r)`` for rotate, of which ``2 r^2`` is trained.

    Source: Zhang and Pilanci, Spectral Adapter, arXiv 2405.13952.
    """

    catalogue_id = "001-107"
    of_base = True
    scaled = False
    trained = frozenset({"moved_U", "moved_V"})
    mode: str = knob("add", Values(("add", "rotate")), Values(("add", "rotate")), help="see above")

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        rows, columns = matrix_shape(shape)
        frozen: dict[str, Shape] = {"U": (rows, rank), "S": (rank,), "V": (rank, columns)}
        if self.mode == "add":
            return {**frozen, "moved_U": (rows, rank), "moved_V": (rank, columns)}
        return {**frozen, "moved_U": (rank, rank), "moved_V": (rank, rank)}

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`: one vector cannot be rotated."""
        yield from super().refusals(layers, rank, methods)
        for name in layers if self.mode == "rotate" and rank < 2 else ():
            yield f"{name}: {self.name} rotates two vectors or more; rank {rank} has one"

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        sizes = self.slots(tuple(weight.shape), start.rank)
        u, s, vh = top_svd(weight, start.rank)
        moved = {suffix: weight.new_zeros(sizes[suffix]) for suffix in self.trained}
        return {"U": u, "S": s, "V": vh, **moved}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`: what is exactly 0 where nothing has moved."""
        own = layer.own()
        u, s, v, left, right = (own[suffix] for suffix in ("U", "S", "V", "moved_U", "moved_V"))
        if self.mode == "add":
            return [Chain(1.0, (v + right, s, left)), Chain(1.0, (right, s, u))]
        core = rotation(left) * s @ rotation(right).T - torch.diag(s)
        return [Chain(1.0, (v, core, u))]

    def macs(self, shape: Shape, rank: int) -> int:
        """``2 r (m + n + 1)`` for add, ``r (m + n + r)`` for rotate."""
        size = sum(matrix_shape(shape))
        return 2 * rank * (size + 1) if self.mode == "add" else rank * (size + rank)


def rotation(x: Tensor) -> Tensor:
    """Cayley's ``(I - K)(I + K)^-1`` of ``K = X - X^T``: orthogonal (r, r), I where X = 0."""
    skew, eye = x - x.T, torch.eye(len(x), dtype=x.dtype, device=x.device)
    found: Tensor = torch.linalg.solve(eye + skew, eye - skew, left=False)
    return found
