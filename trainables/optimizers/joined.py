"""Optimizers made of others: several as one, and one whose gradients are changed first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch


class Joined(torch.optim.Optimizer):
    """Several optimizers over disjoint parameters that step as one."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        groups = [group for part in self.parts for group in part.param_groups]
        # torch copies the group dicts; a learning rate set here must reach the part's own group.
        super().__init__([p for group in groups for p in group["params"]], {})
        self.param_groups = groups

    @classmethod
    def of(cls, parts: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
        """The parts as one optimizer; one part is that optimizer itself."""
        return parts[0] if len(parts) == 1 else cls(parts)

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


def before_step(
    optimizer: torch.optim.Optimizer, change: Callable[[], None]
) -> torch.optim.Optimizer:
    """The same optimizer, which calls ``change`` on the gradients before each step.

    ``change`` has to be linear in them: a fused optimizer under a gradient scaler is handed scaled
    gradients and divides them inside its step.
    """

    def hook(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        with torch.no_grad():
            change()

    optimizer.register_step_pre_hook(hook)
    return optimizer
