"""Learning from the dense model: what its layers put out, beside the task's own loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compression.kinds import WITH_INPUTS, kind_of
from compression.registry import InvalidSetting
from compression.rules import compression_of, patterns
from trainables.hardware.devices import move
from trainables.splits import Inputs
from trainables.stage import Stage

ADAPTED = "adapted"
"""In the place of patterns: the layers that carry an adapter."""

IGNORED = -100
"""The label of what a loss leaves out, as torch has it."""
See = Callable[[Tensor, Tensor], Tensor | None]
"""Called with a layer's input and output; what it gives back, if anything, is the output."""


@contextmanager
def watching(model: nn.Module, seers: Mapping[str, See]) -> Iterator[None]:
    """Within the block each named module hands its input and output to its function."""
    with ExitStack() as stack:
        for name, see in seers.items():
            hook = partial(_hook, see)
            stack.enter_context(model.get_submodule(name).register_forward_hook(hook))
        yield


def _hook(see: See, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    first = _tensor(output)
    if first is None:
        return None
    changed = see(args[0] if args else first, first)
    if changed is None:
        return None
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def _tensor(output: Any) -> Tensor | None:
    """What a module puts out: of several things, as blocks of texts give them, the first tensor."""
    values = output.values() if isinstance(output, Mapping) else output
    parts = values if isinstance(values, Iterable) and not isinstance(values, Tensor) else [values]
    return next((part for part in parts if isinstance(part, Tensor)), None)


def dense_on(stage: Stage, device: torch.device) -> nn.Module:
    """The dense model where the stage is trained: itself, which nobody may change, or a copy."""
    # Else it would be given gradients, of which nobody makes use, by every trial of the process.
    stage.dense.requires_grad_(False)
    return stage.dense if device.type == "cpu" else move(deepcopy(stage.dense), device)


def feature_problems(model: nn.Module, wanted: str, teacher: str) -> Iterator[str]:
    """What is wrong with patterns of feature layers, a sentence each.

    They match no module, one that is a list and never called, or one that cannot be the teacher
    alone: a dense ``layer`` is called with one input, as Linear and Conv2d are.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    for pattern in patterns(wanted) if wanted != ADAPTED else ():
        found = {n: module for n, module in modules.items() if fnmatchcase(n, pattern)}
        if not found:
            shown = ", ".join([*modules][:4])
            yield f"features: '{pattern}' matches no module of the model ({shown}, ...)"
        for name, module in found.items():
            kind = type(module).__name__
            if isinstance(module, nn.ModuleList | nn.ModuleDict):
                yield f"features: '{name}' is a {kind}, which puts nothing out; name its parts"
            elif teacher == "layer" and kind_of(module) not in WITH_INPUTS:
                yield f"features: '{name}' is a {kind}; teacher layer takes Linear and Conv2d alone"


def feature_names(stage: Stage, wanted: str) -> tuple[str, ...]:
    """The modules whose outputs are compared, in model order."""
    if wanted == ADAPTED:
        done = compression_of(stage.model)
        return tuple(name for name, entry in done.layers.items() if entry.adapted)
    asked = patterns(wanted)
    every = (name for name, _ in stage.dense.named_modules() if name)
    return tuple(name for name in every if any(fnmatchcase(name, p) for p in asked))


@dataclass
class Seen:
    """Inputs and outputs of the student's layers in one forward."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def of(self, name: str) -> See:
        """What keeps those of a layer; of one that is called more than once, the last."""

        def keep(given: Tensor, output: Tensor) -> None:
            self.inputs[name], self.outputs[name] = given, output

        return keep


class Distillation:
    """Mean squared error between the student's features and those of the dense model.

    ``mean_l mean((f_l - t_l)^2)`` over the named layers and, with the teacher ``model``, the
    model's outputs; ``relative`` divides each by ``mean(t_l^2)``. The teacher is the dense model on
    the same examples, or each dense ``layer`` alone on what the student's layer was given. Of
    features (b, t, d) tokens of padding do not count.

    Args:
        stage: of the student; on its device.
        names: modules of both models.
        teacher: ``model`` or ``layer``.
        relative: see above.
    """

    def __init__(self, stage: Stage, names: Collection[str], teacher: str, relative: bool) -> None:
        device = next(stage.model.parameters()).device
        self.stage, self.names, self.relative = stage, tuple(names), relative
        self.dense = dense_on(stage, device)
        self.by_layer = teacher == "layer"
        # What stands at the cut is given to the layer as the dense model's own would be.
        self.same_inputs = set(names) <= set(stage.reads)
        self.teacher = stage.forward_of(self.dense)

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Within the block the student's features are seen."""
        seen = Seen()
        with watching(self.stage.model, {name: seen.of(name) for name in self.names}):
            yield seen

    def loss(self, inputs: Inputs, outputs: Tensor, labels: Tensor, seen: Seen) -> Tensor:
        """The mean over the layers, a scalar.

        Raises:
            InvalidSetting: a layer that the model does not call, or that puts out no tensor.
        """
        student = dict(seen.outputs)
        if silent := [name for name in self.names if name not in student]:
            names = ", ".join(f"'{name}'" for name in silent)
            raise InvalidSetting([f"features: {names}: not called, or no tensor comes out"])
        last = any(value is outputs for value in student.values())
        if self.by_layer or (self.same_inputs and last):
            target = self._local(seen)
        else:
            target = self._taught(inputs)
            student[""] = outputs
        masks = _masks(inputs, labels)
        return torch.stack([self._gap(student[n], target[n], masks) for n in student]).mean()

    @torch.no_grad()
    def _local(self, seen: Seen) -> dict[str, Tensor]:
        """The dense layers on the student's inputs: no pass of its own where these are equal."""
        layers = {name: self.dense.get_submodule(name) for name in seen.inputs}
        return {name: layer(seen.inputs[name]) for name, layer in layers.items()}

    @torch.no_grad()
    def _taught(self, inputs: Inputs) -> dict[str, Tensor]:
        """Features and outputs of the dense model."""
        seen = Seen()
        with watching(self.dense, {name: seen.of(name) for name in self.names}):
            outputs = self.teacher(inputs)
        return {**seen.outputs, "": outputs}

    def _gap(self, student: Tensor, target: Tensor, masks: Collection[Tensor]) -> Tensor:
        if student.shape != target.shape:
            shapes = f"{tuple(student.shape)}, in the dense one {tuple(target.shape)}"
            raise InvalidSetting([f"features: a layer's outputs are {shapes}"])
        # In half precision squares overflow from 256 on.
        student, target = student.float(), target.float()
        mask = next((m for m in masks if student.dim() == 3 and m.shape == student.shape[:2]), None)
        if mask is not None:
            kept = mask.to(student.device)
            student, target = student[kept], target[kept]
        gap, size = (student - target).square().mean(), target.square().mean()
        return gap / torch.where(size > 0, size, 1.0) if self.relative else gap


def _masks(inputs: Inputs, labels: Tensor) -> list[Tensor]:
    """Which tokens are no padding, (b, t) bool: of texts, and of what a decoder learns."""
    if isinstance(inputs, Tensor):
        return []
    found = [inputs["attention_mask"].bool()] if "attention_mask" in inputs else []
    if (ahead := inputs.get("decoder_input_ids")) is not None:
        found.append(labels[:, : ahead.shape[1]] != IGNORED)
    return found


def structural_problem(methods: Iterable[Any]) -> Iterator[str]:
    """Features are compared layer by layer: the dense model's must be there."""
    for name in dict.fromkeys(method.name for method in methods if method.structural):
        yield f"{name} changes the structure: features are then not those of the dense model"
