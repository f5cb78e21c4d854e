"""Riemannian preconditioned LoRA."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange
from trainables.optimizers.base import OPTIMIZERS, Optimizer
from trainables.optimizers.factors import base_knob, damped_solve, damping_knob, matrix, plain
from trainables.optimizers.joined import before_step


@OPTIMIZERS.register("riemannian")
class Riemannian(Optimizer):
    """Gradients of a factor over the Gram matrix of the other one, r x r, then Adam or SGD.

    ``g_A <- (B^T B + d I)^-1 g_A`` and ``g_B <- g_B (A A^T + d I)^-1``. Under SGD at d = 0 the path
    of B A is the same from (B G, G^-1 A) for every invertible G.

    Source: Zhang and Pilanci, Riemannian Preconditioned LoRA, arXiv 2402.02347.
    """

    of_pairs = True
    lr = FloatRange(3e-4, 3e-2, log=True)
    base: str = base_knob()
    damping: float = damping_knob(1e-6)

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""

        def change() -> None:
            for A, B, _ in pairs:
                rows, columns = matrix(A), matrix(B)
                if A.grad is not None:
                    step = damped_solve(columns.T @ columns, matrix(A.grad), self.damping)
                    A.grad.copy_(step.reshape(A.shape))
                if B.grad is not None:
                    step = damped_solve(rows @ rows.T, matrix(B.grad).T, self.damping).T
                    B.grad.copy_(step.reshape(B.shape))

        return before_step(plain(self.base, params, lr), change)
