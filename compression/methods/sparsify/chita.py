"""Pruning by a quadratic model of the loss, made of gradients of single examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method
from compression.methods.sparsify.keeping import keep_top
from compression.methods.sparsify.sparse_form import Unstructured
from compression.registry import FloatRange, IntRange, InvalidSetting, Values, knob
from compression.stats import LayerStats, gradients_of


@METHODS.register("chita")
class CHITA(Unstructured):
    """Fewest increase of ``0.5 ||A (w - w0)||^2 + 0.5 lambda ||w - w0||^2`` with k weights left.

    A is the (s, p) matrix of the gradients of s examples over ``sqrt(s)``, so ``A^T A`` is the
    empirical Fisher matrix of the p weights, which is never formed; lambda is ``ridge`` times its
    mean diagonal. Iterative hard thresholding picks a support; on it the best values follow from
    an s x s system. Starts at magnitude pruning, and takes steps that lower the objective only.

    Stored bytes: as ``magnitude`` for k values.

    Source: Benbaki et al., Fast as CHITA, arXiv 2302.14623, catalogue 001-130.
    """

    catalogue_id = "001-130"
    kinds = WITH_INPUTS
    needs = frozenset({"samples"})
    ridge: float = knob(
        1.0, FloatRange(1e-4, 1e4, log=True), Values((0.1, 1.0, 10.0)), help="lambda, relative"
    )
    iterations: int = knob(20, IntRange(0, 1000), help="steps tried to a better support")

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        matrix = weight.flatten(1)
        model = Quadratic.of(gradients_of(stats).samples, matrix.flatten(), self.ridge)
        mask = keep_top(model.start.abs(), self.budget(matrix.numel()))
        values, mask = self._improved(model, mask)
        return self.store(values.view_as(matrix), mask.view_as(matrix))

    def _improved(self, model: Quadratic, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Values and support, by hard thresholding with steps as long as they help."""
        kept = int(mask.sum())
        values = min(model.start * mask, model.best_on(mask), key=model.objective)
        objective, step = model.objective(values), model.safe_step()
        for _ in range(self.iterations):
            tried = keep_top((values - step * model.gradient(values)).abs(), kept)
            if torch.equal(tried, mask):
                step *= 2
                continue
            best = model.best_on(tried)
            if (after := model.objective(best)) < objective:
                mask, values, objective, step = tried, best, after, 1.5 * step
            else:
                step /= 2
        return values, mask


@dataclass(frozen=True)
class Quadratic:
    """The model: A (s, p), w0 (p,) and lambda."""

    rows: Tensor
    start: Tensor
    ridge: float

    @classmethod
    def of(cls, samples: Tensor | None, start: Tensor, ridge: float) -> Quadratic:
        """From gradients (s, m, n) of single examples; lambda is 1 where all of them are zero."""
        if samples is None:
            raise InvalidSetting(["chita: needs gradients of single examples"])
        rows = samples.flatten(1).to(torch.float32) / len(samples) ** 0.5
        mean = float(rows.square().sum()) / rows.shape[1]
        return cls(rows, start, ridge * mean if mean > 0 else 1.0)

    def objective(self, values: Tensor) -> float:
        """Of weights (p,)."""
        change = values - self.start
        return float((self.rows @ change).square().sum() + self.ridge * change.square().sum()) / 2

    def gradient(self, values: Tensor) -> Tensor:
        """Of the objective, (p,)."""
        change = values - self.start
        return (self.rows @ change) @ self.rows + self.ridge * change

    def safe_step(self) -> float:
        """One over the largest eigenvalue of ``A^T A + lambda I``."""
        return 1 / (float(torch.linalg.eigvalsh(self.rows @ self.rows.T)[-1]) + self.ridge)

    def best_on(self, mask: Tensor) -> Tensor:
        """The minimum over weights that are zero outside of a mask.

        With B the columns of A in the mask, and r the product of the others with w0, it is
        ``w0 + B^T (B B^T + lambda I)^-1 r`` inside.
        """
        inside = self.rows * mask
        lost = self.rows @ (self.start * ~mask)
        system = (inside @ inside.T).double()
        system.diagonal().add_(self.ridge)
        shares: Tensor = torch.linalg.solve(system, lost.double())
        return self.start * mask + shares.float() @ inside
