"""Low-rank adaptation with a mixer between the factors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import Chain, Chained, ShipsLora, chained, random_matrix
from compression.methods.base import Shape, matrix_shape
from compression.registry import Values, knob


@ADAPTERS.register("moslora")
class MosLora(ShipsLora):
    """MoSLoRA: ``y = W x + (alpha / r) B M A x`` with B (m, r), M (r, r), A (r, n), all trained.

    M = I throughout would be LoRA. It trains ``r (m + n + r)`` numbers, but stores a ``lora``: M
    goes into B. Stored bytes: ``b r (m + n)``. Under inits of their own delta B starts at
    ``B_0 M^-1``.

    Source: Wu et al., MoSLoRA, arXiv 2406.11909.
    """

    catalogue_id = "001-72"
    trained = frozenset({"lora_A", "lora_B", "mixer"})
    mixer_init: str = knob(
        "orthogonal",
        Values(("orthogonal", "kaiming", "identity")),
        Values(("orthogonal", "kaiming")),
        help="where M starts",
    )

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        rank, (rows, columns) = start.rank, matrix_shape(weight.shape)
        mixer, a, b = self._mixer(rank).to(weight), random_matrix(rank, columns), start.B
        if start.A is not None:
            a = start.A
        if b is None:
            return {"lora_A": a, "lora_B": weight.new_zeros(rows, rank), "mixer": mixer}
        b = torch.linalg.solve(mixer, b / self.scale(start.alpha, rank), left=False)
        return {"lora_A": a, "lora_B": b, "mixer": mixer}

    def _mixer(self, rank: int) -> Tensor:
        if self.mixer_init == "kaiming":
            return random_matrix(rank, rank)
        if self.mixer_init == "identity":
            return torch.eye(rank)
        return nn.init.orthogonal_(torch.empty(rank, rank))

    def again(
        self, name: str, shape: Shape, rank: int, stored: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.again`."""
        return {**stored, "mixer": torch.eye(rank)}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`: with M in B, so that it computes as what is stored."""
        own = layer.own()
        return [Chain(layer.scale, (own["lora_A"], own["lora_B"] @ own["mixer"]))]

    @torch.no_grad()
    def settle(self, model: nn.Module, layers: Mapping[str, tuple[Shape, int]]) -> None:
        """See :meth:`Adapter.settle`: ``B <- B M``, ``M <- I``."""
        for name in layers:
            own = chained(model, name).own()
            own["lora_B"].copy_(own["lora_B"] @ own["mixer"])
            own["mixer"].copy_(torch.eye(len(own["mixer"])))
        super().settle(model, layers)

    @torch.no_grad()
    def stored(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.stored`: A and B M."""
        found: dict[str, Tensor] = {}
        for name in layers:
            own = chained(model, name).own()
            found[f"{name}.lora_A"] = own["lora_A"]
            found[f"{name}.lora_B"] = own["lora_B"] @ own["mixer"]
        return found
