"""What truncation leaves out of the spectra of weights, relative to their largest values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from compression.allocation.base import Candidate
from compression.methods.base import Method
from compression.methods.low_rank.block_svd import BlockSVD
from compression.methods.low_rank.svd import TruncatedSVD


def left_out(candidates: Sequence[Candidate]) -> list[float]:
    """``max_i sigma_{r+1}(W_i) / sigma_1(W)`` over the tiles W_i of W, of a group the largest.

    Each spectrum is computed once for all candidates that cut the layer alike; where the method is
    ``none`` nothing is left out.
    """
    weights = _common(candidates)

    @cache
    def spectrum(name: str, tiled: BlockSVD | None) -> Tensor:
        weight = weights[name]
        tiles = weight.flatten(1)[None] if tiled is None else tiled.cut(weight)
        found: Tensor = torch.linalg.svdvals(tiles.double())
        return found

    def of(method: Method, name: str) -> float:
        if not isinstance(method, TruncatedSVD | BlockSVD):
            return 0.0
        sigma = spectrum(
            name,
            method.replace(rank=1, energy=BlockSVD.energy)
            if isinstance(method, BlockSVD)
            else None,
        )
        rank = method.pick(sigma.square().sum(0))
        if rank >= sigma.shape[1]:
            return 0.0
        largest = float(spectrum(name, None)[0, 0])
        return float(sigma[:, rank].max()) / largest if largest else 0.0

    return [max(of(candidate.method, name) for name in weights) for candidate in candidates]


def _common(candidates: Sequence[Candidate]) -> dict[str, Tensor]:
    """The weights of the group that all candidates are of."""
    found: Mapping[str, Tensor] = candidates[0].weights
    return {name: weight.detach().float().cpu() for name, weight in found.items()}
