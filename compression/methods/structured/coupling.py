"""Which channels of a model depend on each other, found by torch-pruning and tried here."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compression.calibration import Calibration, evaluating
from compression.edits import EDITS, Edit
from compression.edits.keep_channels import is_depthwise, text_of
from compression.kinds import kind_of
from compression.registry import InvalidSetting

_MIXING = ("bmm", "softmax", "attention", "norm", "embedding", "slice", "expand", "unbind")
_MIXING_BUT = "batchnorm"
_CONV_SIZES = ("out_channels", "in_channels")
_TOLERANCE = 1e-4
EXAMPLES = 2


@dataclass(eq=False)
class Group:
    """Channels that are removed together: each of ``size`` in all its modules.

    ``outputs`` and ``inputs`` hold, by module, the channel of the group that each of the module's
    own belongs to, (channels,) int64, -1 for none. Only multiples of ``step`` can stay, as many in
    each of ``step`` equal parts: grouped convolutions need it. Groups and masks are in main memory,
    wherever the model is.
    """

    size: int
    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    step: int = 1

    def count(self, ratio: float) -> int:
        """How many stay: ``ratio * size`` rounded up to a multiple of ``step``, above zero."""
        return max(1, math.ceil(ratio * self.size / self.step - 1e-9)) * self.step

    def best(self, scores: Tensor, count: int) -> Tensor:
        """The mask of the ``count`` channels of the highest scores, as ``step`` allows."""
        parts = scores.cpu().view(self.step, -1)
        top = parts.topk(count // self.step, dim=1).indices
        mask = torch.zeros_like(parts, dtype=torch.bool)
        return mask.scatter_(1, top, value=True).flatten()


@dataclass
class Masks:
    """What stays of the outputs and the inputs of modules, by name."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def edits(self) -> tuple[Edit, ...]:
        """The edits that remove the rest: one for all modules with the same bitmap."""
        found: dict[str, tuple[list[str], list[str]]] = {}
        for side, masks in enumerate((self.outputs, self.inputs)):
            for name, mask in masks.items():
                found.setdefault(text_of(mask), ([], []))[side].append(name)
        return tuple(
            EDITS.build(
                "keep_channels",
                {"kept": kept, "outputs": ",".join(outputs), "inputs": ",".join(inputs)},
            )
            for kept, (outputs, inputs) in found.items()
        )


def masks_of(chosen: Mapping[Group, Tensor]) -> Masks:
    """The masks of modules from those of their groups."""
    masks = Masks()
    for group, kept in chosen.items():
        for ours, theirs in ((group.outputs, masks.outputs), (group.inputs, masks.inputs)):
            for name, channels in ours.items():
                left = (channels < 0) | kept[channels]
                theirs[name] = theirs[name] & left if name in theirs else left
    return masks


def groups_of(
    model: nn.Module, calibration: Calibration, targets: Iterable[str]
) -> tuple[list[Group], list[str]]:
    """Groups whose channels can be removed, and why others cannot.

    All layers that lose outputs are among ``targets``, but for depthwise convolutions and norms,
    which follow; those that lose inputs need not be.

    Raises:
        InvalidSetting: torch-pruning is not installed, or cannot follow the model.
    """
    graph, names = _graph(model, calibration)
    shared = _sharing(model)
    targets, groups, kept = set(targets), list[Group](), dict[str, list[str]]()
    for found in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        try:
            groups.append(_group(graph, found, names, targets, shared))
        except InvalidSetting as error:
            losing = (i for i in found.items if graph.is_out_channel_pruning_fn(i.dep.handler))
            ours = [names.get(item.dep.target.module) for item in losing]
            if root := next((name for name in ours if name in targets), None):
                kept.setdefault(str(error), []).append(root)
    return groups, [f"all channels stay of {', '.join(kept[why])}: {why}" for why in kept]


def _sharing(model: nn.Module) -> set[str]:
    """Modules with a parameter that another name has too."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    return {name for found in names.values() if len(found) > 1 for name in found}


def _graph(model: nn.Module, calibration: Calibration) -> tuple[Any, dict[nn.Module, str]]:
    try:
        import torch_pruning
    except ImportError:
        text = "channel pruning needs torch-pruning: pip install 'paretune[structured]'"
        raise InvalidSetting([text]) from None
    traced = copy.deepcopy(model).requires_grad_(True).eval()
    batch = next(calibration.batches(EXAMPLES))
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of parameters that it would prune and we leave alone
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(
                traced, batch, forward_fn=calibration.forward, verbose=False
            )
        except Exception as error:  # a model's own code, followed operation by operation
            text = f"torch-pruning cannot follow {type(model).__name__} ({error})"
            raise InvalidSetting([text]) from error
    for module, node in graph.module2node.items():
        if _objection(module):
            node.dependencies.clear()  # what depends on it is refused: no use in going on from here
    return graph, {module: name for name, module in traced.named_modules()}


def _group(
    graph: Any, found: Any, names: dict[nn.Module, str], targets: set[str], shared: set[str]
) -> Group:
    group = Group(len(found[0].idxs))
    for item in found.items:
        module = item.dep.target.module
        if text := _objection(module):
            raise InvalidSetting([text])
        if module not in names:
            continue
        name, outputs = names[module], graph.is_out_channel_pruning_fn(item.dep.handler)
        channels = _channels(module, outputs)
        if name in shared:
            raise InvalidSetting([f"'{name}' shares a tensor"])
        follows = not kind_of(module) or is_depthwise(module)
        if outputs and not follows and name not in targets:
            raise InvalidSetting([f"'{name}', which must lose the same, is no target"])
        side = group.outputs if outputs else group.inputs
        mine = side.setdefault(name, torch.full((channels,), -1))
        mine[torch.tensor(item.idxs)] = torch.tensor(item.root_idxs)
        if isinstance(module, nn.Conv2d) and not is_depthwise(module):
            group.step = math.lcm(group.step, module.groups)
    if not targets & group.outputs.keys():
        raise InvalidSetting(["none is a target"])
    if not group.inputs:
        raise InvalidSetting(["they are the model's outputs"])
    if group.size % group.step:
        raise InvalidSetting([f"{group.size} are not divisible by {group.step} groups"])
    return group


def _objection(module: Any) -> str:
    """Why the channels that reach a place of the graph cannot be removed."""
    if isinstance(module, Tensor):
        return "a parameter outside of layers depends on them"
    if kind_of(module) in ("linear", "conv2d") or isinstance(module, _BatchNorm):
        return ""
    if next(module.parameters(), None) is not None:
        return f"a {type(module).__name__} depends on them"
    operation = f"{getattr(module, '_grad_fn', type(module).__name__)}".lower()
    if any(word in operation.replace(_MIXING_BUT, "") for word in _MIXING):
        return f"an operation takes them together ({operation.strip('_')})"
    return ""


def _channels(module: Any, outputs: bool) -> int:
    if isinstance(module, _BatchNorm):
        return module.num_features
    names = ("out_features", "in_features") if kind_of(module) == "linear" else _CONV_SIZES
    return int(getattr(module, names[0] if outputs else names[1]))


def sound(
    model: nn.Module, calibration: Calibration, chosen: Mapping[Group, Tensor]
) -> dict[Group, Tensor]:
    """The removals after which the model computes what it does with these channels masked.

    A check of the graph on a few examples: masked means that all who read a channel have zeros as
    their weights for it.
    """
    return dict(_sound(model, calibration, list(chosen.items())))


def _sound(
    model: nn.Module, calibration: Calibration, chosen: list[tuple[Group, Tensor]]
) -> list[tuple[Group, Tensor]]:
    """Of all, or of both halves; where these do not go together the last go until they do."""
    if not chosen or _agrees(model, calibration, masks_of(dict(chosen))):
        return chosen
    if len(chosen) == 1:
        return []
    middle = len(chosen) // 2
    first = _sound(model, calibration, chosen[:middle])
    both = first + _sound(model, calibration, chosen[middle:])
    while len(both) > len(first) and not _agrees(model, calibration, masks_of(dict(both))):
        both.pop()
    return both


@torch.no_grad()
def _agrees(model: nn.Module, calibration: Calibration, masks: Masks) -> bool:
    batch = next(calibration.batches(EXAMPLES))
    masked, sliced = copy.deepcopy(model), copy.deepcopy(model)
    mask_inputs(masked, masks.inputs)
    with evaluating(masked), evaluating(sliced):
        expected = calibration.forward(masked, batch)
        try:
            for edit in masks.edits():
                edit.apply(sliced)
            got = calibration.forward(sliced, batch)
        except Exception:  # a model's own code, which may count on its sizes
            return False
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return False
    return bool((got - expected).abs().max() <= _TOLERANCE * expected.abs().max())


@torch.no_grad()
def mask_inputs(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the weights for inputs that do not stay to zero, in place."""
    for name, mask in masks.items():
        layer = model.get_submodule(name)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        stays = per_column(layer, mask)[:, None].to(weight.device)
        by_group = weight.reshape(len(stays), -1, stays.shape[2])
        weight.copy_((by_group * stays).view_as(weight))


def per_column(layer: nn.Module, values: Tensor) -> Tensor:
    """Values of a layer's input channels (c,) as those of the columns of ``W.flatten(1)``, (G, n).

    The outputs of the G groups of a convolution read different channels.
    """
    groups, kernel = 1, 1
    if isinstance(layer, nn.Conv2d):
        groups, kernel = layer.groups, math.prod(layer.kernel_size)
    return values.view(groups, -1).repeat_interleave(kernel, dim=1)
