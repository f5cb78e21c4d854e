"""Planning the removal of channels: what each is worth, which stay, what their readers become."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from compression.calibration import Calibration
from compression.kinds import kind_of
from compression.methods.base import Plan, Scene
from compression.methods.none import NoMethod
from compression.methods.structured.coupling import (
    Group,
    Masks,
    groups_of,
    masks_of,
    per_column,
    sound,
)
from compression.second_moments import by_group, cholesky
from compression.stats import InputStats

Scores = Callable[[Group], Tensor]
Rebuild = Callable[[Masks], Mapping[str, Tensor]]


def plan_removal(
    scene: Scene, calibration: Calibration, keep_ratio: float, scores: Scores, rebuild: Rebuild
) -> Plan:
    """Keep the channels of the highest scores (size,) in each group, and remove the others.

    Args:
        scene: whose layers may lose outputs.
        calibration: examples, to follow and to try the model with.
        keep_ratio: of the channels of a group; rounded as :meth:`Group.count` says.
        scores: of a group's channels.
        rebuild: new dense weights (m, all inputs, ...) for readers, by name.
    """
    groups, notes = groups_of(scene.model, calibration, scene.layers)
    chosen = {
        group: group.best(scores(group), count)
        for group in groups
        if (count := group.count(keep_ratio)) < group.size
    }
    done = sound(scene.model, calibration, chosen)
    notes += [
        f"{next(iter(group.outputs))} keeps its channels: without some the model does not compute "
        "what it does with these masked"
        for group in chosen.keys() - done.keys()
    ]
    masks = masks_of(done)
    others = [name for name in masks.inputs if name not in scene.layers]
    notes += [f"{name} is no target and loses inputs" for name in others]
    weights = {name: _left(name, weight, masks) for name, weight in rebuild(masks).items()}
    specs = dict.fromkeys(scene.layers, NoMethod())
    return Plan(specs, masks.edits(), weights, tuple(notes))


def _left(name: str, weight: Tensor, masks: Masks) -> Tensor:
    """The part of a reader's new weight for the outputs that stay."""
    return weight[masks.outputs[name]] if name in masks.outputs else weight


def energy_by_channel(group: Group, values: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """Sum of non-negative values (m, n) of the layers' weights over a group's channels, (size,).

    A channel owns the rows of the layers that write it and the columns of those that read it.
    Layers without values count nothing.
    """
    total = torch.zeros(group.size + 1)  # the last for columns of no channel of the group
    for name, channels in group.outputs.items():
        if name in values:
            total.index_add_(0, channels % len(total), values[name].sum(1).cpu())
    for name, channels in group.inputs.items():
        if name in values:
            columns = per_column(model.get_submodule(name), channels) % len(total)
            by_column = by_group(values[name], len(columns)).sum(1).cpu()
            total.index_add_(0, columns.flatten(), by_column.flatten())
    return total[:-1]


def shares(group: Group, model: nn.Module) -> dict[str, Tensor]:
    """``W^2 / ||W||^2`` (m, n) of a group's layers: each of them counts the same."""
    found = {}
    for name in {**group.outputs, **group.inputs}:
        if kind_of(layer := model.get_submodule(name)):
            weight: Tensor = layer.weight  # type: ignore[assignment]
            squares = weight.detach().float().flatten(1).square()
            found[name] = squares / squares.sum().clamp_min(torch.finfo(torch.float32).tiny)
    return found


def reader_gram(group: Group, name: str, layer: nn.Module, stats: InputStats) -> Tensor:
    """``<Z_i, Z_j>`` (size, size), Z_i what channel i adds to the outputs of a layer that reads it.

    ``Z_i = X_i W_i^T`` over the calibration inputs, so that with their second moment H the entry
    is the sum of ``(W^T W) o H`` over the columns of i and j.
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    columns = per_column(layer, group.inputs[name]).to(weight.device)  # (G, n)
    w = by_group(weight.detach().float(), len(columns))
    moment = w.transpose(1, 2) @ w * stats.second_moment
    owner = torch.nn.functional.one_hot(columns % (group.size + 1), group.size + 1).float()
    gram: Tensor = owner.flatten(0, 1).T @ (moment @ owner).flatten(0, 1)
    return gram[:-1, :-1]


def least_squares(weight: Tensor, moment: Tensor, stays: Tensor) -> Tensor:
    """The weight for the inputs that stay that is nearest to what all inputs give.

    ``W_S + W_D H_DS (H_SS + e I)^-1``, D the inputs that go: the minimum of
    ``E||W x - V x_S||^2 + e ||V - W_S||^2``, so never worse than ``W_S`` itself; e is 1e-3 of the
    mean diagonal of H_SS, or the first multiple by 10 with which it is positive definite.

    Args:
        weight: (G, m, n), of groups with inputs of their own.
        moment: H, (G, n, n).
        stays: (G, n) bool, as many in each group.

    Returns:
        (G, m, k), float32.

    Raises:
        InvalidSetting: H is no second moment, and has no such multiple.
    """
    order = stays.byte().argsort(dim=1, descending=True, stable=True)
    count = int(stays[0].sum())
    h = moment.double().gather(1, order[..., None].expand_as(moment))
    h = h.gather(2, order[:, None].expand_as(moment))
    w = weight.double().gather(2, order[:, None].expand_as(weight))
    kept, gone = w[..., :count], w[..., count:]
    h_ss, h_sd = h[:, :count, :count], h[:, :count, count:]
    moved = torch.cholesky_solve(h_sd @ gone.transpose(1, 2), cholesky(h_ss, 1e-3))
    return (kept + moved.transpose(1, 2)).float()
