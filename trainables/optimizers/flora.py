"""Flora: momentum kept under a random projection that is drawn again and again."""

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


@OPTIMIZERS.register("flora")
class Flora(Optimizer):
    """Flora: momentum ``M <- b M + (1 - b) G R^T`` (k, r), unpacked as ``M R``; Adam on vectors.

    R (r, l) has entries N(0, 1/r), so that ``E[R^T R] = I``. It follows from a fixed seed and the
    step and is not stored; every ``resample_every`` steps it is drawn again and M becomes
    ``M R_old R_new^T``. The step is ``M R`` over Adafactor's second moment of row and column means,
    the base of the paper's experiments, at an RMS of at most 1. A projection as large as the side
    that it packs would only add noise: that side stays whole.

    Its own: the libraries at hand have none.

    Source: Hao et al., Flora, arXiv 2402.03293, catalogue 001-113.
    """

    catalogue_id = "001-113"
    lr = FloatRange(3e-4, 3e-2, log=True)
    opt_rank: int = knob(32, IntRange(1, 65536), Values((4, 8, 16, 32, 64)), help="r")
    resample_every: int = knob(100, IntRange(1, 1_000_000), help="steps under one projection")
    beta1: float = knob(0.9, FloatRange(0.0, 0.999), help="of the momentum")

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        matrices, vectors = divided(params)
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(Packed(matrices, lr, self))
        if vectors:
            parts.append(torch.optim.Adam(vectors, lr=lr, fused=True))
        return Joined.of(parts)


def projection(rank: int, side: int, index: int, drawn: int) -> Tensor | None:
    """R (rank, side) with ``E[R^T R] = I``; None, the identity, where it would pack nothing."""
    return gaussian((rank, side), index, drawn) / rank**0.5 if rank < side else None


class Packed(torch.optim.Optimizer):
    """Momentum under random projections. State: M, and means of squares by row and column."""

    def __init__(self, params: Sequence[torch.nn.Parameter], lr: float, knobs: Flora) -> None:
        self.knobs = knobs
        self.drawn: dict[int, tuple[int, Tensor | None]] = {}  # by index: when, and what
        super().__init__(params, {"lr": lr})

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
        state, beta, every = self.state[p], self.knobs.beta1, self.knobs.resample_every
        done = state.get("step", 0)
        R = self._projection(index, done // every, gradient)
        packed = gradient if R is None else gradient @ R.T
        if not done:
            rows, columns = gradient.shape
            state["momentum"] = torch.zeros_like(packed)
            state.update(rows=gradient.new_zeros(rows), columns=gradient.new_zeros(columns))
        elif R is not None and done % every == 0:
            old = self._projection(index, done // every - 1, gradient)
            if old is not None:
                state["momentum"] = (state["momentum"] @ old) @ R.T
        state["step"] = done + 1
        state["momentum"].lerp_(packed, 1 - beta)
        self._second_moment(state, gradient)
        mean = state["momentum"] if R is None else state["momentum"] @ R
        step = mean / (1 - beta ** (done + 1)) / self._root(state)
        rms = step.square().mean().sqrt()
        p.sub_(unwidened(step / rms.clamp_min(1.0), p), alpha=group["lr"])

    def _projection(self, index: int, drawn: int, like: Tensor) -> Tensor | None:
        if self.drawn.get(index, (-1, None))[0] != drawn:
            R = projection(self.knobs.opt_rank, like.shape[1], index, drawn)
            self.drawn[index] = drawn, None if R is None else R.to(like)
        return self.drawn[index][1]

    def _second_moment(self, state: dict[str, Any], gradient: Tensor) -> None:
        new = state["step"] ** -0.8  # Adafactor's decay: all of the first step, ever less of others
        squares = gradient.square() + 1e-30
        state["rows"].lerp_(squares.mean(1), new)
        state["columns"].lerp_(squares.mean(0), new)

    def _root(self, state: dict[str, Any]) -> Tensor:
        rows: Tensor = state["rows"]
        root: Tensor = (rows / rows.mean()).sqrt()[:, None] * state["columns"].sqrt()
        return root
