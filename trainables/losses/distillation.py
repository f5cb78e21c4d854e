"""Learning the dense model's outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compression.registry import FloatRange, knob
from trainables.distillation import dense_on
from trainables.losses.base import LOSSES, Aim, Lessons, Loss
from trainables.splits import Inputs


@LOSSES.register("distil")
class Distil(Loss):
    """``(1 - w) L + w T^2 KL(p_T || q_T)``: p the dense model's softmax, q the trained one's.

    Both at temperature T, on the same examples, as they are distorted; w = ``weight``. T^2 keeps
    the gradients' size whatever T is. The dense model runs from where the trained part begins.

    Source: Hinton et al., arXiv 1503.02531.
    """

    weight: float = knob(
        0.5, FloatRange(0.0, 1.0), FloatRange(0.1, 0.9), help="of the dense model's outputs"
    )
    temperature: float = knob(
        2.0, FloatRange(0.1, 100.0), FloatRange(1.0, 8.0, log=True), help="T of both softmaxes"
    )

    @property
    def replaces(self) -> bool:
        """See :class:`Loss`: where it has all the weight."""
        return self.weight == 1

    def over(self, before: Aim, lessons: Lessons) -> Aim:
        """See :class:`Loss`."""
        teacher = lessons.stage.forward_of(dense_on(lessons.stage, lessons.device))

        def distilled(inputs: Inputs, outputs: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad():
                taught = self._log_p(lessons, teacher(inputs), labels)
            learnt = self._log_p(lessons, outputs, labels)
            gap = nn.functional.kl_div(learnt, taught, reduction="batchmean", log_target=True)
            gap = self.temperature**2 * gap
            if self.replaces:
                return gap
            return (1 - self.weight) * before(inputs, outputs, labels) + self.weight * gap

        return distilled

    def _log_p(self, lessons: Lessons, outputs: Tensor, labels: Tensor) -> Tensor:
        """(k, c) of the k positions that the task's loss counts."""
        logits, _ = lessons.task.predictions(outputs, labels)
        return (logits.float() / self.temperature).log_softmax(-1)
