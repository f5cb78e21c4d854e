"""Win back accuracy by training the adapter only."""

from __future__ import annotations

from trainables.recipes.base import RECIPES, Run
from trainables.recipes.taught import Taught
from trainables.recipes.training import Training
from trainables.record import Trial
from trainables.stage import Stage
from trainables.tasks.base import Task


@RECIPES.register("recover")
class Recover(Taught):
    """Train the adapter on the task's loss; everything else stays as compressed.

    The model runs in eval mode throughout: freezing parameters does not stop BatchNorm's running
    statistics in train mode, and a base that drifts is not the base that is shipped.
    """

    def start(self, stage: Stage, task: Task, trial: Trial) -> Run:
        """See :class:`Recipe`."""
        return Training(stage, task, trial, self.lesson(stage))
