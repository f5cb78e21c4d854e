"""A mean of the latest parameters."""

from __future__ import annotations

from compression.acting import Acting, Moment
from compression.registry import FloatRange, Values, knob
from trainables.hooks.averaging import Averaging
from trainables.hooks.base import HOOKS, Hook, Scene


@HOOKS.register("ema")
class Ema(Hook):
    """EMA: what ships is the exponential moving average of the adapter over the training.

    ``sum_k d^k p_{t-k} / sum_k d^k`` after t steps, ``d = 1 - 1 / max(1, span * steps)``: free of
    a start that nothing was learnt at, and after one step the parameters themselves. The optimizer
    goes on from what it trains. Of several averages the last one named ships.

    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992, in the
    form of Adam's moments, arXiv 1412.6980.
    """

    span: float = knob(
        0.1,
        FloatRange(0.0, 1.0),
        Values((0.05, 0.1, 0.2)),
        help="how far back it reaches, share of the training",
    )

    def start(self, scene: Scene) -> Acting:
        """See :class:`Hook`."""
        return _Moving(scene, self.span)


class _Moving(Averaging):
    def __init__(self, scene: Scene, span: float) -> None:
        super().__init__(scene)
        self.span = span

    def counts(self, moment: Moment) -> bool:
        """See :meth:`Averaging.counts`: always."""
        return True

    def weights(self, moment: Moment) -> tuple[float, float]:
        """See :meth:`Averaging.weights`."""
        new = 1 / max(1.0, self.span * moment.steps)
        return 1 - new, new
