"""What a task's target layers allow, known from its architecture alone."""

from __future__ import annotations

from compression.model import target_layers
from compression.registry import Domain, Values
from trainables.tasks import Task


def rank_problem(ranks: Domain, task: Task) -> str | None:
    """Whether some rank is above the largest that any target layer can have."""
    asked = int(max(ranks.values) if isinstance(ranks, Values) else ranks.high)
    layers = target_layers(task.architecture(), task.targets).items()
    largest, name = max(
        (min(layer.get_parameter("weight").flatten(1).shape), name) for name, layer in layers
    )
    if asked <= largest:
        return None
    return f"{asked} is above {largest}, the largest rank of any target layer ('{name}')"


def target_share(task: Task) -> tuple[int, int]:
    """Bytes of the dense model's tensors, and of its targets' weights among them."""
    model = task.architecture()
    layers = target_layers(model, task.targets).values()
    # By address: a tensor that two layers share is stored once.
    bytes_at = {t.data_ptr(): t.nbytes for t in model.state_dict().values()}
    weights = {layer.get_parameter("weight").data_ptr() for layer in layers}
    return sum(bytes_at.values()), sum(bytes_at[address] for address in weights)
