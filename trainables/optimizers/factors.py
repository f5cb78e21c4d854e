"""What optimizers of the factors A and B of a delta share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compression.adapters.base import Pair
from compression.registry import FloatRange, Scalar, Values, knob

# Inverses of Gram matrices are taken in float64, where the square of a condition number fits.
SOLVED = torch.float64


def unpaired(params: Sequence[nn.Parameter], pairs: Sequence[Pair]) -> list[nn.Parameter]:
    """Those of ``params`` that are in no pair: biases, magnitudes."""
    paired = {id(factor) for pair in pairs for factor in (pair.A, pair.B)}
    return [p for p in params if id(p) not in paired]


def matrix(tensor: Tensor) -> Tensor:
    """A factor, or its gradient, as the matrix of the delta: A (r, n) or B (m, r), in float64."""
    return tensor.flatten(1).to(SOLVED)


def damped_solve(gram: Tensor, right: Tensor, damping: float) -> Tensor:
    """``(gram + damping I)^-1 right`` for a Gram matrix (r, r) and (r, k), both float64.

    Values that are not finite go through, as the loss has to tell of them.
    """
    root, _ = torch.linalg.cholesky_ex(gram + damping * torch.eye(len(gram)).to(gram))
    return torch.cholesky_solve(right, root)


def plain(name: str, params: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam or plain gradient descent, by the values of :func:`base_knob`."""
    if name == "adam":
        return torch.optim.Adam(params, lr=lr, fused=True)
    return torch.optim.SGD(params, lr=lr, foreach=True)


def base_knob() -> str:
    """The knob of what steps along the changed gradients."""
    chosen: str = knob(
        "adam",
        Values(("adam", "sgd")),
        help="what steps along them; sgd wants larger learning rates, by the size of gradients",
    )
    return chosen


def damping_knob(default: float, when: Mapping[str, tuple[Scalar, ...]] | None = None) -> float:
    """The knob of what is added to the Gram matrices, so that B may start at 0."""
    chosen: float = knob(
        default,
        FloatRange(1e-15, 1.0, log=True),
        when=when,
        help="d, added to the eigenvalues of B^T B and A A^T",
    )
    return chosen
