"""LoRA whose ranks and first step follow the gradient of the weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compression.acting import Acting, Moment
from compression.adapters.base import ADAPTERS, Pair
from compression.adapters.bridge.lora import Lora
from compression.adapters.ranks.shares import Bounded
from compression.registry import FloatRange, knob, naming
from compression.stats import LayerStats, gradients_of


@ADAPTERS.register("gora")
class Gora(Bounded, Lora):
    """GoRA: LoRA with ranks in proportion to ``mean|W o G|``, whose B starts along the gradient.

    Ranks come from G of the dense model on calibration examples: ``sum r_l (m + n)`` is no more
    than at ``rank`` on all layers, r_l between ``min_factor`` and ``max_factor`` times ``rank``.

    B is set by the gradients of the model as it was compressed, in the first ``grad_share`` of the
    training, in which nothing of its layers moves: ``B <- B - (eta / s) dL/dB (A A^T)^+``. As
    ``dL/dB`` is ``s G A^T`` that moves the delta ``s B A`` by ``-eta G P``, P the projection on the
    rows of A: the nearest that B can come to ``-eta G``. ``eta = gamma sqrt(n / r)``, so that the
    move is near ``gamma ||G||`` in size. So the untrained start is the init's; the paper has this
    step before the training, and divides the importance by no width. Stored bytes: ``b r (m + n)``.

    Source: He et al., GoRA, arXiv 2502.12171.
    """

    catalogue_id = "001-166"
    needs = frozenset({"gradients"})
    grad_share: float = knob(
        0.02,
        FloatRange(0.0, 1.0),
        help="share of training that averages gradients; at least a step",
    )
    gamma: float = knob(
        0.05,
        FloatRange(0.0, 1e3),
        search=FloatRange(0.01, 1.0, log=True),
        help="size of the first move over that of G",
    )

    def allocate(
        self, rank: int, weights: Mapping[str, Tensor], stats: Mapping[str, LayerStats]
    ) -> dict[str, int]:
        """See :meth:`Adapter.allocate`."""
        found = {}
        for name, weight in weights.items():
            with naming(name):
                gradient = gradients_of(stats.get(name)).mean
            product = weight.flatten(1).to(gradient) * gradient
            found[name] = float(product.double().abs().mean())
        return self.by_importance(rank, weights, found)

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`."""
        names = list(layers)
        modules = [model.get_submodule(name) for name in names]
        params = {id(p): p for module in modules for p in module.parameters()}
        return _FirstMove(self.pairs(model, names), list(params.values()), self)


class _FirstMove(Acting):
    """Average the gradients of B while nothing moves, then move B along them.

    ``seen`` counts the gradients of each B: hooks may leave its layer out of a step.
    """

    def __init__(self, pairs: list[Pair], params: list[nn.Parameter], own: Gora) -> None:
        self.pairs, self.params, self.own = pairs, params, own
        self.sums = [torch.zeros_like(pair.B) for pair in pairs]
        self.seen, self.moved = [0] * len(pairs), False

    @torch.no_grad()
    def after_backward(self, moment: Moment) -> None:
        """See :meth:`Acting.after_backward`."""
        if self.moved:
            return
        for index, pair in enumerate(self.pairs):
            if pair.B.grad is not None:
                self.sums[index] += pair.B.grad
                self.seen[index] += 1
        for parameter in self.params:
            parameter.grad = None  # no optimizer moves it, not even by its weight decay

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`."""
        due = moment.step + 1 >= self.own.grad_share * moment.steps
        if self.moved or not due or not any(self.seen):
            return
        for pair, total, count in zip(self.pairs, self.sums, self.seen, strict=True):
            if count:
                pair.B.add_(first_move(pair, total / count, self.own.gamma))
        self.moved = True
        self.renewals += 1

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        sums = [total.clone() for total in self.sums]
        counts = {"seen": list(self.seen), "moved": self.moved, "renewals": self.renewals}
        return {"sums": sums, **counts}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        self.seen, self.moved = [int(count) for count in state["seen"]], bool(state["moved"])
        self.renewals = int(state["renewals"])
        for total, stored in zip(self.sums, state["sums"], strict=True):
            total.copy_(stored)


def first_move(pair: Pair, gradient: Tensor, gamma: float) -> Tensor:
    """``-(eta / s) dB (A A^T)^+`` with ``eta = gamma sqrt(n / r)``, in the shape of B."""
    a, d = pair.A.detach().flatten(1).double(), gradient.flatten(1).double()
    rank, columns = a.shape
    eta = gamma * (columns / rank) ** 0.5
    # dB = s G A^T: one 1 / s takes the s out of G, the other out of the delta.
    solved: Tensor = d @ torch.linalg.pinv(a @ a.T, hermitian=True) / pair.scale**2
    moved: Tensor = (-eta * solved).to(pair.B)
    return moved.view_as(pair.B)
