"""LoRA-Pro: the joint step of A and B is the one nearest to the full gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compression.adapters.base import Pair
from compression.registry import FloatRange, Values, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer
from trainables.optimizers.factors import base_knob, damping_knob, matrix, plain, unpaired
from trainables.optimizers.joined import Joined, before_step


@OPTIMIZERS.register("lora_pro")
class LoraPro(Optimizer):
    """LoRA-Pro: steps of A and B whose change of the delta is the nearest to the full gradient.

    ``g_A <- (B^T B)^-1 g_A / s^2 + X A`` and
    ``g_B <- (I - B (B^T B)^-1 B^T) g_B (A A^T)^-1 / s^2 - B X`` minimise
    ``|s (B g_A + g_B A) - g|_F`` for every X; X is that which moves the gradients least:
    ``B^T B X + X A A^T = -(B^T B)^-1 g_A A^T / s^2``.

    With ``moments=full`` Adam's moments are those of ``s (B g_A + g_B A)``, two tensors of the size
    of the layer's weight, and its step is projected back the same way; with ``factors`` they are
    those of the changed g_A and g_B, as published under the name of efficient mode.

    Source: Wang et al., LoRA-Pro, arXiv 2407.18242, catalogue 001-43.
    """

    catalogue_id = "001-43"
    of_pairs = True
    lr = FloatRange(1e-4, 1e-2, log=True)
    base: str = base_knob()
    moments: str = knob(
        "full",
        Values(("full", "factors")),
        Values(("full", "factors")),
        when={"base": ("adam",)},
        help="of what Adam keeps its moments",
    )
    damping: float = damping_knob(1e-8)

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        if not pairs or self.base == "sgd" or self.moments == "factors":
            return before_step(plain(self.base, params, lr), lambda: self._adjust(pairs))
        parts: list[torch.optim.Optimizer] = [FullMoments(pairs, lr, self.damping)]
        if others := unpaired(params, pairs):
            parts.append(plain("adam", others, lr))
        return Joined.of(parts)

    def _adjust(self, pairs: Sequence[Pair]) -> None:
        moved = learning(pairs)
        given = [gradients(pair) for pair in moved]
        for (A, B, _), step in zip(moved, nearest(moved, given, self.damping), strict=True):
            A.grad, B.grad = shaped(step.A, A), shaped(step.B, B)


class Step(NamedTuple):
    """Gradients of both factors as matrices, float64: A (r, n), B (m, r)."""

    A: Tensor
    B: Tensor


def learning(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with gradients."""
    return [pair for pair in pairs if pair.A.grad is not None and pair.B.grad is not None]


def gradients(pair: Pair) -> Step:
    """Those of backpropagation: ``s B^T g`` and ``s g A^T``."""
    if pair.A.grad is None or pair.B.grad is None:
        raise ValueError("a factor has no gradient")
    return Step(matrix(pair.A.grad), matrix(pair.B.grad))


def shaped(step: Tensor, factor: Tensor) -> Tensor:
    """A step as the factor is kept."""
    return step.reshape(factor.shape).to(factor.dtype)


def nearest(pairs: Sequence[Pair], given: Sequence[Step], damping: float) -> list[Step]:
    """The steps with the change nearest to that of the full gradients: see :class:`LoraPro`."""
    rows, columns = [matrix(pair.A) for pair in pairs], [matrix(pair.B) for pair in pairs]
    of_rows = spectra([A @ A.T for A in rows])
    of_columns = spectra([B.T @ B for B in columns])
    steps = []
    for i, pair in enumerate(pairs):
        A, B, square = rows[i], columns[i], pair.scale**2
        (mu, V), (nu, U) = of_rows[i], of_columns[i]
        lifted = U @ ((U.T @ given[i].A) / (nu + damping)[:, None]) / square
        right = ((given[i].B @ V) / (mu + damping)) @ V.T / square
        outside = right - B @ (U @ ((U.T @ (B.T @ right)) / (nu + damping)[:, None]))
        sums = nu[:, None] + mu + damping
        X = -U @ ((U.T @ lifted @ A.T @ V) / sums) @ V.T
        steps.append(Step(lifted + X @ A, outside - B @ X))
    return steps


def spectra(grams: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Eigenvalues, at least 0, and eigenvectors of each Gram matrix.

    Those of one size are taken at once: on a GPU small ones cost a call, not their arithmetic.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for size in {len(gram) for gram in grams}:
        chosen = [i for i, gram in enumerate(grams) if len(gram) == size]
        stacked = torch.stack([grams[i] for i in chosen])
        # eigh raises at what is not finite, where the loss of the next step tells more.
        finite = stacked.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        values, vectors = torch.linalg.eigh(torch.where(finite, stacked, 0.0))
        values = torch.where(finite[..., 0], values.clamp_min(0.0), torch.nan)
        found.update({i: (values[k], vectors[k]) for k, i in enumerate(chosen)})
    return [found[i] for i in range(len(grams))]


class FullMoments(torch.optim.Optimizer):
    """Adam's moments of the full gradient as the factors can follow it, and its step as they can.

    The state is B's: ``mean`` and ``square`` (m, n).
    """

    def __init__(self, pairs: Sequence[Pair], lr: float, damping: float) -> None:
        self.pairs, self.damping = list(pairs), damping
        defaults = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8}
        super().__init__([factor for A, B, _ in pairs for factor in (A, B)], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every pair."""
        if closure is not None:
            with torch.enable_grad():
                closure()
        (group,) = self.param_groups
        pairs = learning(self.pairs)
        near = nearest(pairs, [gradients(pair) for pair in pairs], self.damping)
        wanted = [self._adam(pair, step, group) for pair, step in zip(pairs, near, strict=True)]
        steps = nearest(pairs, wanted, self.damping)
        for (A, B, _), step in zip(pairs, steps, strict=True):
            A.sub_(shaped(step.A, A), alpha=group["lr"])
            B.sub_(shaped(step.B, B), alpha=group["lr"])

    def _adam(self, pair: Pair, near: Step, group: dict[str, Any]) -> Step:
        """The gradients of both factors, had the full one been Adam's step."""
        A, B = pair.A.flatten(1), pair.B.flatten(1)
        full = pair.scale * (B @ near.A.to(A.dtype) + near.B.to(A.dtype) @ A)
        state = self.state[pair.B]
        if not state:
            state.update(step=0, mean=torch.zeros_like(full), square=torch.zeros_like(full))
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(full, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(full, full, value=1 - beta2)
        mean = state["mean"] / (1 - beta1 ** state["step"])
        square = state["square"] / (1 - beta2 ** state["step"])
        wanted = mean / (square.sqrt() + group["eps"])
        return Step(matrix(pair.scale * (B.T @ wanted)), matrix(pair.scale * (wanted @ A.T)))
