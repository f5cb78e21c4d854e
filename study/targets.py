"""What a task's target layers allow, known from its architecture alone."""

from __future__ import annotations

from collections.abc import Sequence

from compression.kinds import EVERY_LAYER, kind_of
from compression.model import target_layers
from compression.registry import Domain, Values
from study.space import Option, corner_plugins, option_params
from trainables.tasks import Task


def rank_problem(ranks: Domain, task: Task) -> str | None:
    """Whether some rank is above the largest that any target layer can have."""
    asked = int(max(ranks.values) if isinstance(ranks, Values) else ranks.high)
    layers = target_layers(task.skeleton(), task.targets).items()
    largest, name = max(
        (min(layer.get_parameter("weight").flatten(1).shape), name) for name, layer in layers
    )
    if asked <= largest:
        return None
    return f"{asked} is above {largest}, the largest rank of any target layer ('{name}')"


def method_problems(options: Sequence[Option], task: Task) -> list[str]:
    """Methods asked of layers that they cannot take, with the layers."""
    layers = target_layers(task.skeleton(), task.targets)
    found = []
    for option in options:
        first = option.plugins()[0][0].name
        corners = corner_plugins("method", option.name, option_params("method", option))
        kinds = {method.kinds for method in corners}
        able = frozenset.intersection(*kinds) if kinds else EVERY_LAYER
        wrong = [
            f"'{name}' ({type(layer).__name__})"
            for name, layer in layers.items()
            if kind_of(layer) not in able
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            found.append(
                f"{option.name}: {first} takes {' and '.join(sorted(able))}, not "
                f"{', '.join(wrong[:3])}{more}; name other targets in the task"
            )
    return found


def target_share(task: Task) -> tuple[int, int]:
    """Bytes of the dense model's tensors, and of its targets' weights among them."""
    model = task.skeleton()
    layers = target_layers(model, task.targets).values()
    # By identity: a tensor that two layers share is stored once.
    sizes = {id(tensor): tensor.nbytes for tensor in model.state_dict(keep_vars=True).values()}
    weights = {id(layer.get_parameter("weight")) for layer in layers}
    return sum(sizes.values()), sum(sizes[key] for key in weights)
