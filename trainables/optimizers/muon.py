"""Muon for matrices, AdamW for the rest."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from compression.registry import FloatRange, knob
from trainables.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("muon")
class Muon(Optimizer):
    """Orthogonalised momentum for 2-D tensors (torch.optim.Muon), AdamW for all others.

    Convolution kernels, magnitudes and biases are not matrices: they are trained by AdamW at the
    same learning rate, which the RMS-matching step size of arXiv 2502.16982 makes comparable.
    """

    lr = FloatRange(3e-4, 3e-2, log=True)
    momentum: float = knob(0.95, FloatRange(0.0, 0.999))
    weight_decay: float = knob(0.0, FloatRange(0.0, 1.0))

    def build(self, params: Sequence[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """See :class:`Optimizer`."""
        matrices = [p for p in params if p.ndim == 2]
        others = [p for p in params if p.ndim != 2]
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=lr,
                    momentum=self.momentum,
                    weight_decay=self.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            parts.append(
                torch.optim.AdamW(others, lr=lr, weight_decay=self.weight_decay, foreach=True)
            )
        return parts[0] if len(parts) == 1 else Joined(parts)


class Joined(torch.optim.Optimizer):
    """Several optimizers over disjoint parameters that step as one."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        groups = [group for part in self.parts for group in part.param_groups]
        # torch copies the group dicts; a learning rate set here must reach the part's own group.
        super().__init__([p for group in groups for p in group["params"]], {})
        self.param_groups = groups

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of each part."""
        for part in self.parts:
            part.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts by position."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state_dict[str(i)])
        self.param_groups = [group for part in self.parts for group in part.param_groups]
