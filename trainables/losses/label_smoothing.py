"""Labels that leave something to the other classes."""

from __future__ import annotations

from torch import Tensor

from compression.registry import FloatRange, knob
from trainables.losses.base import LOSSES, Aim, Lessons, Loss
from trainables.splits import Inputs


@LOSSES.register("label_smoothing")
class LabelSmoothing(Loss):
    """``(1 - e) L + e U`` with U the mean of -log p over all classes, e = ``smoothing``.

    Over cross-entropy that is cross-entropy with the targets ``(1 - e) onehot + e / classes``.

    Source: Szegedy et al., arXiv 1512.00567.
    """

    smoothing: float = knob(
        0.1, FloatRange(0.0, 0.999), FloatRange(0.01, 0.3), help="e, the share that is spread"
    )

    def over(self, before: Aim, lessons: Lessons) -> Aim:
        """See :class:`Loss`."""

        def smoothed(inputs: Inputs, outputs: Tensor, labels: Tensor) -> Tensor:
            logits, _ = lessons.task.predictions(outputs, labels)
            spread = -logits.float().log_softmax(-1).mean()
            return (1 - self.smoothing) * before(inputs, outputs, labels) + self.smoothing * spread

        return smoothed
