"""From the names in a trial to the objects they stand for, and from these to a compressed model."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import nn

from compression.adapters import ADAPTERS
from compression.inits import INITS
from compression.methods import METHODS
from compression.model import Rule, compress_model
from compression.rules import compression_of, dense_needs
from compression.size import Bytes, macs, measure, positions
from trainables.calibration import examples, statistics
from trainables.record import NONE, Choice, LayerRule, Parts, Size, Trial, canonical
from trainables.tasks.base import TASKS, Prepared, Task


def resolve_task(choice: Choice) -> Task:
    """The task that a choice names.

    Raises:
        UnknownName, InvalidSetting: as the registry says.
    """
    return TASKS.build(choice.name, choice.args)


def resolve_rule(rule: LayerRule) -> Rule:
    """The method, init and adapter objects that a rule names.

    Raises:
        UnknownName, InvalidSetting: as the registries say.
    """
    return Rule(
        pattern=rule.pattern,
        methods=tuple(METHODS.build(c.name, c.args) for c in rule.methods),
        init=INITS.build(rule.init.name, rule.init.args),
        adapter=ADAPTERS.build(rule.adapter.name, rule.adapter.args),
        rank=rule.rank,
        alpha=rule.alpha,
    )


def calibration_seconds(task: Task, data: Prepared, trial: Trial) -> float:
    """What the statistics cost that a trial stands on, as if it had been the only one."""
    rules = [resolve_rule(rule) for rule in trial.layers]
    return statistics(task, data, dense_needs(rules)).seconds


def build(task: Task, data: Prepared, trial: Trial) -> nn.Module:
    """A compressed and adapted copy of the dense model, as the trial asks.

    What the trial leaves as it is stands in memory once, for all trials of a worker.
    """
    rules = [resolve_rule(rule) for rule in trial.layers]
    model = compress_model(
        _copy(data.model, share=trial.rest == NONE),
        rules,
        task.targets,
        stats=statistics(task, data, dense_needs(rules)),
        generator=torch.Generator().manual_seed(trial.seed),
        rest=METHODS.build(trial.rest.name, trial.rest.args),
        untie=task.untie,
        calibration=examples(task, data),
    )
    return model.eval()  # and nothing trains it out of that: BatchNorm must not drift


def _copy(model: nn.Module, share: bool) -> nn.Module:
    """A copy whose modules can be changed; with ``share`` its tensors are those of the model.

    Compressing puts new tensors in place of a layer's; only rounding the rest writes into them.
    """
    tensors = (*model.parameters(), *model.buffers()) if share else ()
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def about(trial: Trial) -> dict[str, str]:
    """What an artifact says of itself beyond its layers: the task, whose architecture it needs."""
    return {"task": canonical(trial.task)}


def measure_size(model: nn.Module, task: Task, data: Prepared, trial: Trial) -> Size:
    """Bytes of the model's file beside those of the dense model's, both by our own writer."""
    mine = measure(model, task.targets, about(trial))
    dense = _dense_bytes(data.model, task.targets, tuple(about(trial).items()))
    return Size(
        model=Parts(**mine.model),
        targets=Parts(**mine.targets),
        dense_model=Parts(**dense.model),
        dense_targets=Parts(**dense.targets),
        nominal_bits=mine.nominal_bits,
        dense_nominal_bits=dense.nominal_bits,
    )


@lru_cache(maxsize=1)
def _dense_bytes(
    model: nn.Module, targets: tuple[str, ...], remarks: tuple[tuple[str, str], ...]
) -> Bytes:
    """The dense side, measured once in a worker's life: its file is the largest there is."""
    return measure(model, targets, dict(remarks))


def count_macs(model: nn.Module, task: Task, data: Prepared) -> int:
    """Multiply-accumulates of one validation sample."""
    if compression_of(model).edits:
        return macs(model, _positions.__wrapped__(model, task, data))
    return macs(model, _positions(data.model, task, data))


@lru_cache(maxsize=1)
def _positions(model: nn.Module, task: Task, data: Prepared) -> dict[str, int]:
    """Measured once in a worker's life: it takes a whole forward pass."""
    sample = data.validation.inputs(torch.arange(1))
    return positions(model, lambda: task.forward(model, sample))
