"""What a task's target layers allow, known from its architecture alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from compression.adapters import ADAPTERS
from compression.methods import METHODS
from compression.methods.chain import split
from compression.model import target_layers
from compression.rank_limits import no_smaller, oversized, smaller_rank
from compression.registry import Domain, Values
from study.space.options import Option, corner_plugins, option_params
from trainables.optimizers import OPTIMIZERS
from trainables.tasks import Task

SHOWN = 3


class Targeted(Protocol):
    """Layers of a model: a task's, or some of them."""

    @property
    def targets(self) -> tuple[str, ...]: ...  # noqa: D102
    def skeleton(self) -> nn.Module: ...  # noqa: D102


def leaves_nothing(option: Option) -> bool:
    """Whether a method, or a chain, keeps nothing of a layer."""
    return METHODS[(option.parts or (option,))[-1].name].base_is_gone


def rank_problem(ranks: Domain, task: Targeted, methods: Sequence[Option] = ()) -> str | None:
    """Whether some rank is above the largest that any target layer can have.

    Where an adapter stands for its layer, that is the largest with fewer values than the layer.
    """
    asked = int(max(ranks.values) if isinstance(ranks, Values) else ranks.high)
    layers = target_layers(task.skeleton(), task.targets).items()
    largest, name = max(
        (min(layer.get_parameter("weight").flatten(1).shape), name) for name, layer in layers
    )
    if asked > largest:
        return f"{asked} is above {largest}, the largest rank of any target layer ('{name}')"
    most = max(smaller_rank(tuple(layer.get_parameter("weight").shape)) for _, layer in layers)
    if asked > most and any(map(leaves_nothing, methods)):
        return no_smaller(asked, most)
    return None


def method_problems(options: Sequence[Option], task: Targeted) -> list[str]:
    """Methods asked of layers that they cannot take, or of a model that has nothing for them."""
    model = task.skeleton()
    layers = target_layers(model, task.targets)
    weights = target_shapes(task)
    found = list[str]()
    for option in options:
        corners = [*corner_plugins("method", option.name, option_params("method", option))]
        # Knobs may change what layers a method takes; else one of it speaks for all.
        distinct = {method.kinds: method for method in corners}.values()
        refused = {text: None for method in distinct for text in method.refusals(model, layers)}
        shown = list(refused)[:SHOWN]
        more = [f"and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
        if shown:
            found.append(f"{'; '.join([*shown, *more])}: leave it out, or name other targets")
        found += dict.fromkeys(filter(None, (oversized(method, weights) for method in corners)))
    return found


def target_shapes(task: Targeted) -> dict[str, tuple[int, ...]]:
    """Of the target layers' weights, by name."""
    layers = target_layers(task.skeleton(), task.targets).items()
    return {name: tuple(layer.get_parameter("weight").shape) for name, layer in layers}


def recipe_problems(
    recipes: Sequence[Option], space: Mapping[str, Sequence[Option]], task: Task
) -> list[str]:
    """What recipes cannot train, of what the study would have them train."""
    model = task.skeleton()
    made, used, starts = (
        [plugin for option in space[axis] for plugin in _corners(axis, option)]
        for axis in ("method", "adapter", "init")
    )
    used = [adapter for adapter in used if adapter.name != "none"]
    found = {
        f"{recipe.name}: {text}": None
        for option in recipes
        for recipe in _corners("recipe", option)
        for text in recipe.refusals(model, made, used, starts)
    }
    return list(found)


def adapter_problems(space: Mapping[str, Any], task: Targeted) -> list[str]:
    """Adapters asked of layers, ranks, inits or methods that they cannot take."""
    model = task.skeleton()
    layers = target_layers(model, task.targets)
    methods = [split(m)[1] for option in space["method"] for m in _corners("method", option)]
    inits = [init for option in space["init"] for init in _corners("init", option)]
    found = dict[str, None]()
    for option in space["adapter"]:
        for adapter in _corners("adapter", option):
            found |= dict.fromkeys(adapter.model_refusals(model))
            for rank in _ranks(space["rank"]) if adapter.ranked else [0]:
                refused = list(dict.fromkeys(adapter.refusals(layers, rank, methods)))
                shown = refused[:SHOWN]
                shown += [f"and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
                found |= {"; ".join(shown): None} if shown else {}
                if adapter.takes_delta:
                    found |= {p: None for init in inits if (p := init.rank_problem(rank))}
    return list(found)


def _ranks(domain: Domain) -> list[int]:
    """All that are listed; of a range its ends, and one that is odd if any is."""
    if isinstance(domain, Values):
        return [int(value) for value in domain.values]
    low, high = int(domain.low), int(domain.high)
    return sorted({low, min(low + 1, high), high})


def hook_problems(recipes: Sequence[Option], space: Mapping[str, Sequence[Option]]) -> list[str]:
    """Hooks that cannot act on what the study would train, or that a recipe contradicts."""
    hooks, methods, adapters, trainings = (
        [plugin for option in options for plugin in _corners(axis, option)]
        for axis, options in [
            ("hook", space["hook"]),
            ("method", space["method"]),
            ("adapter", space["adapter"]),
            ("recipe", recipes),
        ]
    )
    adapters = [adapter for adapter in adapters if adapter.name != "none"]
    found = dict[str, None]()
    for hook in hooks:
        found |= {f"{hook.name}: {text}": None for text in hook.refusals(methods, adapters)}
        for recipe in trainings if hook.changes_base else []:
            if not recipe.keeps_base:
                text = f"it changes the base, of which recipe {recipe.name} leaves nothing"
                found[f"{hook.name}: {text}"] = None
    return list(found)


def loss_problems(recipes: Sequence[Option], space: Mapping[str, Sequence[Option]]) -> list[str]:
    """Losses of which nothing would come to be trained on."""
    found = dict[str, None]()
    for option in space["loss"]:
        for made in corner_plugins("loss", option.name, option_params("loss", option)):
            several = made if isinstance(made, tuple) else (made,)
            for one, later in itertools.pairwise(several):
                if later.replaces:
                    text = f"has no effect before {later.name}, which has all the weight"
                    found[f"{one.name}: {text}"] = None
            for recipe in _of_recipes(recipes):
                if several[0].name != "task" and getattr(recipe, "task_weight", 1.0) == 0:
                    text = f"has no effect where {recipe.name}.task_weight is 0"
                    found[f"{option.name}: {text}"] = None
    return list(found)


def _of_recipes(options: Sequence[Option]) -> list[Any]:
    return [recipe for option in options for recipe in _corners("recipe", option)]


def optimizer_problems(space: Mapping[str, Sequence[Option]]) -> list[str]:
    """Optimizers of the factors A and B, asked of adapters that have none."""
    plain = [o.name for o in space["adapter"] if o.name != "none" and not ADAPTERS[o.name].factored]
    return [
        f"{option.name}: treats the factors A and B of an adapter apart, and {', '.join(plain)} "
        "has none; compare them in studies of their own"
        for option in space["optimizer"]
        if plain and OPTIMIZERS[option.name].of_pairs
    ]


def _corners(axis: str, option: Option) -> list[Any]:
    """The plugins of an option at the extremes of their knobs; of several each."""
    found = corner_plugins(axis, option.name, option_params(axis, option))
    return [one for plugin in found for one in (plugin if isinstance(plugin, tuple) else [plugin])]


def target_share(task: Task) -> tuple[int, int]:
    """Bytes of the dense model's tensors, and of its targets' weights among them."""
    model = task.skeleton()
    layers = target_layers(model, task.targets).values()
    # By identity: a tensor that two layers share is stored once.
    sizes = {id(tensor): tensor.nbytes for tensor in model.state_dict(keep_vars=True).values()}
    weights = {id(layer.get_parameter("weight")) for layer in layers}
    return sum(sizes.values()), sum(sizes[key] for key in weights)
