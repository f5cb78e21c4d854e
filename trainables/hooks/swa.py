"""The mean of the last part of a training."""

from __future__ import annotations

from compression.acting import Acting, Moment
from compression.registry import FloatRange, Values, knob
from trainables.hooks.averaging import Averaging
from trainables.hooks.base import HOOKS, Hook, Scene, ends_period


@HOOKS.register("swa")
class Swa(Hook):
    """SWA: what ships is the mean of the adapter over snapshots from ``start`` on.

    A snapshot is taken after every ``every`` of the training, a step at least; before the first of
    them ships what is trained. The optimizer goes on from what it trains. Of several averages the
    last one named ships. Published with a constant or cyclical learning rate in that part.

    Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization,
    arXiv 1803.05407.
    """

    begin: float = knob(
        0.5, FloatRange(0.0, 1.0), Values((0.5, 0.75)), help="share of the training before it"
    )
    every: float = knob(0.05, FloatRange(0.0, 1.0), help="between snapshots; 0 is every step")

    def start(self, scene: Scene) -> Acting:
        """See :class:`Hook`."""
        return _Snapshots(scene, self)


class _Snapshots(Averaging):
    def __init__(self, scene: Scene, knobs: Swa) -> None:
        super().__init__(scene)
        self.knobs = knobs

    def counts(self, moment: Moment) -> bool:
        """See :meth:`Averaging.counts`."""
        late = moment.step + 1 > self.knobs.begin * moment.steps
        return late and ends_period(moment, self.knobs.every)

    def weights(self, moment: Moment) -> tuple[float, float]:
        """See :meth:`Averaging.weights`: all alike."""
        return 1.0, 1.0
