"""What recipes share that may learn from the dense model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields

from torch import nn

from compression.adapters import Adapter
from compression.inits import Init
from compression.methods import Method
from compression.registry import ANYTHING, FloatRange, InvalidSetting, Text, Values, knob
from compression.rules import compression_of
from trainables.distillation import (
    ADAPTED,
    Distillation,
    feature_names,
    feature_problems,
    structural_problem,
)
from trainables.recipes.base import Recipe
from trainables.recipes.training import Lesson
from trainables.stage import Stage


@dataclass(frozen=True)
class Taught(Recipe):
    """A recipe with the loss ``w L_task + (1 - w) L_features``, w = ``task_weight``."""

    task_weight: float = knob(
        1.0, FloatRange(0.0, 1.0), help="of the task's loss; 1: nothing is learnt from the teacher"
    )
    features: str = knob(
        ADAPTED,
        Text(ANYTHING, "patterns over module names"),
        help="modules whose outputs are compared; adapted: the layers with an adapter",
    )
    teacher: str = knob(
        "model",
        Values(("model", "layer")),
        help="the dense model; or each dense layer, on what the trained one is given",
    )
    relative: bool = knob(
        False, Values((False, True)), help="each layer's error as a share of its outputs' square"
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.task_weight < 1:
            return
        for f in fields(Taught):
            if f.name != "task_weight" and getattr(self, f.name) != f.default:
                yield f"{self.name}.{f.name}: has no effect; it is read only with task_weight < 1"

    @property
    def whole_model(self) -> bool:
        """See :class:`Recipe`: named features may lie in front of what is trained."""
        return self.distils and self.features != ADAPTED

    @property
    def distils(self) -> bool:
        """Whether anything is learnt from the dense model's features."""
        return self.task_weight < 1

    def refusals(
        self,
        model: nn.Module,
        methods: Collection[Method],
        adapters: Collection[Adapter],
        inits: Collection[Init] = (),
    ) -> Iterator[str]:
        """See :meth:`Recipe.refusals`."""
        if self.distils:
            yield from feature_problems(model, self.features, self.teacher)
            yield from structural_problem(methods)

    def lesson(self, stage: Stage) -> Lesson:
        """What a stage's model is to learn from.

        Raises:
            InvalidSetting: features that the model does not have.
        """
        done = compression_of(stage.model)
        methods = [entry.method for entry in done.layers.values()]
        adapters = [entry.adapter for entry in done.layers.values() if entry.adapted]
        if errors := list(self.refusals(stage.dense, methods, adapters)):
            raise InvalidSetting(f"{self.name}: {text}" for text in errors)
        if not self.distils:
            return Lesson()
        names = feature_names(stage, self.features)
        return Lesson(self.task_weight, Distillation(stage, names, self.teacher, self.relative))
