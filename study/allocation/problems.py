"""What is wrong with an allocation, known from the architecture before anything is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from compression.allocation import Allocator
from compression.kinds import bare
from compression.registry import InvalidSetting
from compression.rules import target_layers
from study.allocation.config import AllocateConfig
from study.layerwise.groups import owned
from study.layerwise.repair import shortfall
from study.layerwise.settings import Settings, corners
from study.layerwise.sizes import Sizes
from study.layerwise.space import LayerwiseSpace
from study.space.space import Space
from trainables.build import resolve_rule
from trainables.tasks import Prepared, Task


def allocation_problems(allocate: AllocateConfig | None, space: Space, task: Task) -> list[str]:
    """Nothing to choose from, methods that an allocator cannot judge, a budget below the least."""
    if allocate is None or not isinstance(space, LayerwiseSpace):
        return []
    sizes = skeleton_sizes(space, task)
    found = [text for one in allocate.by for text in dict.fromkeys(_refusals(one, space, task))]
    try:
        settings = Settings(space, sizes, {group.name: {} for group in space.groups})
    except InvalidSetting:  # bytes known after compressing: looked at when the weights are there
        return found
    if all(len(several) == 1 for several in settings.of.values()):
        found.append("each group of layers has one setting only; there is nothing to choose")
    if problem := shortfall(settings, allocate.budget(sizes.dense_bytes)):
        found.append(problem)
    return found


def skeleton_sizes(space: LayerwiseSpace, task: Task) -> Sizes:
    """Of the model without its values: what follows from shapes and settings."""
    unread = cast(Prepared, _Skeleton(task))
    return Sizes(space, task, unread, estimates=False)


class _Skeleton:
    """The part of :class:`Prepared` that sizes look at."""

    def __init__(self, task: Task) -> None:
        self.model = task.skeleton()


def _refusals(allocator: Allocator, space: LayerwiseSpace, task: Task) -> Iterator[str]:
    layers = target_layers(task.skeleton(), task.targets)
    names = owned({group.name: ",".join(group.patterns) for group in space.groups}, layers)
    for group in space.groups:
        shapes = {tuple(bare(layers[name]).weight.shape) for name in names[group.name]}
        for values in corners(space, group):
            method = resolve_rule(space.group_rules(group, values)[0]).method
            for shape in shapes:
                if why := allocator.refusal(method, shape):
                    yield f"{allocator.name} cannot take {method.name}: it {why}"
