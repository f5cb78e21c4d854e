"""GaLore: Adam in a subspace of the gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from compression.adapters.base import Pair
from compression.registry import FloatRange, IntRange, Values, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer
from trainables.optimizers.joined import Joined
from trainables.optimizers.projection import divided, gaussian, unwidened, wide


@OPTIMIZERS.register("galore")
class GaLore(Optimizer):
    """GaLore: Adam on ``P^T G``, its step taken along ``scale P``, and plain Adam on vectors.

    P (k, r) are the first left singular vectors of the gradient G (k, l), k <= l, found again every
    ``update_gap`` steps; the moments stay as they are. A kernel is the matrix of its flattened
    filters. At r = k it is Adam in the rotated basis.

    Its own, as the one of pytorch_optimizer keeps an object in its state and leaves kernels out.

    Source: Zhao et al., GaLore, arXiv 2403.03507, catalogue 001-42.
    """

    catalogue_id = "001-42"
    lr = FloatRange(3e-4, 3e-2, log=True)
    opt_rank: int = knob(
        4, IntRange(1, 65536), Values((1, 2, 4, 8, 16)), help="r, at most the short side"
    )
    update_gap: int = knob(200, IntRange(1, 1_000_000), help="steps between two bases")
    scale: float = knob(
        1.0, FloatRange(1e-3, 100.0, log=True), help="of the step; 0.25 as published, at larger lr"
    )
    projection: str = knob(
        "svd", Values(("svd", "random")), help="random: orthonormal from a fixed seed"
    )
    beta1: float = knob(0.9, FloatRange(0.0, 0.999))
    beta2: float = knob(0.999, FloatRange(0.0, 0.99999))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        matrices, vectors = divided(params)
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(InSubspace(matrices, lr, self))
        if vectors:
            betas = (self.beta1, self.beta2)
            parts.append(torch.optim.Adam(vectors, lr=lr, betas=betas, fused=True))
        return Joined.of(parts)


class InSubspace(torch.optim.Optimizer):
    """Adam of projected gradients. State of a matrix: its basis, and both moments (r, l)."""

    def __init__(self, params: Sequence[torch.nn.Parameter], lr: float, knobs: GaLore) -> None:
        self.knobs = knobs
        super().__init__(params, {"lr": lr, "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every matrix."""
        if closure is not None:
            with torch.enable_grad():
                closure()
        (group,) = self.param_groups
        for index, p in enumerate(group["params"]):
            if p.grad is not None:
                self._step_one(index, p, wide(p.grad), group)

    def _step_one(
        self, index: int, p: torch.nn.Parameter, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        state, knobs = self.state[p], self.knobs
        done = state.get("step", 0)
        if done % knobs.update_gap == 0:
            state["basis"] = self._basis(gradient, index, done // knobs.update_gap)
        basis = state["basis"]
        inside = basis.T @ gradient
        if not done:
            state.update(mean=torch.zeros_like(inside), square=torch.zeros_like(inside))
        state["step"] = done + 1
        state["mean"].lerp_(inside, 1 - knobs.beta1)
        state["square"].mul_(knobs.beta2).addcmul_(inside, inside, value=1 - knobs.beta2)
        mean = state["mean"] / (1 - knobs.beta1 ** (done + 1))
        square = state["square"] / (1 - knobs.beta2 ** (done + 1))
        step = basis @ (mean / (square.sqrt() + group["eps"]))
        p.sub_(unwidened(step, p), alpha=group["lr"] * knobs.scale)

    def _basis(self, gradient: Tensor, index: int, drawn: int) -> Tensor:
        short = len(gradient)
        rank = min(self.knobs.opt_rank, short)
        if self.knobs.projection == "random":
            drawn_basis: Tensor = torch.linalg.qr(gaussian((short, rank), index, drawn).double())[0]
            return drawn_basis.to(gradient)
        # svd raises at what is not finite, where the loss of the next step tells more.
        finite = torch.where(gradient.isfinite().all(), gradient, 0.0)
        left: Tensor = torch.linalg.svd(finite, full_matrices=False)[0]
        return left[:, :rank].contiguous()
