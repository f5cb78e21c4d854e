"""Win back accuracy by training the adapter only."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

from compression.adapters import Adapter
from compression.inits import Init
from compression.methods import Method
from compression.methods.chain import split
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

    def refusals(
        self,
        model: nn.Module,
        methods: Collection[Method],
        adapters: Collection[Adapter],
        inits: Collection[Init] = (),
    ) -> Iterator[str]:
        """See :meth:`Recipe.refusals`: with neither base nor delta there is nothing to recover."""
        yield from super().refusals(model, methods, adapters, inits)
        empty = [method.name for method in methods if split(method)[1].base_is_gone]
        for name in dict.fromkeys(i.name for i in inits if not i.fixes_alpha) if empty else ():
            yield (
                f"under {empty[0]} init {name} starts at nothing, through which no gradient comes: "
                "use one that starts at a delta, as residual, or recipe progressive"
            )

    def start(self, stage: Stage, task: Task, trial: Trial) -> Run:
        """See :class:`Recipe`."""
        return Training(stage, task, trial, self.lesson(stage))
