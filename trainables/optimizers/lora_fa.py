"""LoRA-FA: A stays where it starts."""

from collections.abc import Sequence

import torch

from compression.adapters.base import Pair
from compression.registry import FloatRange, Values, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer
from trainables.optimizers.factors import damped_solve, damping_knob, matrix
from trainables.optimizers.joined import before_step


@OPTIMIZERS.register("lora_fa")
class LoraFa(Optimizer):
    """LoRA-FA: Adam on B alone, A frozen: the delta stays in the row space in which A starts.

    ``corrected`` steps along ``g_B (A A^T + d I)^-1 / s^2``: of all steps of B that whose change of
    the delta, ``s step A``, is nearest to the full gradient.

    A's gradient is computed and dropped, as the adapter's own training has it; A is stored.

    Source: Zhang et al., LoRA-FA, arXiv 2308.03303.
    """

    of_pairs = True
    lr = FloatRange(3e-4, 3e-2, log=True)
    corrected: bool = knob(
        True, Values((False, True)), Values((False, True)), help="project the gradient of B"
    )
    damping: float = damping_knob(1e-8, when={"corrected": (True,)})
    beta1: float = knob(0.9, FloatRange(0.0, 0.999))
    beta2: float = knob(0.999, FloatRange(0.0, 0.99999))

    def build(
        self, params: Sequence[torch.nn.Parameter], lr: float, pairs: Sequence[Pair] = ()
    ) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        adam = torch.optim.Adam(params, lr=lr, betas=(self.beta1, self.beta2), fused=True)

        def change() -> None:
            for A, B, scale in pairs:
                A.grad = None  # Adam passes over what has no gradient
                if self.corrected and B.grad is not None:
                    rows, gradient = matrix(A), matrix(B.grad)
                    step = damped_solve(rows @ rows.T, gradient.T, self.damping).T / scale**2
                    B.grad.copy_(step.reshape(B.shape))

        return before_step(adam, change)
