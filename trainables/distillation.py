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

from compression.registry import InvalidSetting
from compression.rules import compression_of, patterns
from trainables.hardware.devices import move
from trainables.splits import Inputs
from trainables.stage import Stage

ADAPTED = "adapted"
"""In the place of patterns: the layers that carry an adapter."""

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
    first = output[0] if isinstance(output, tuple) else output
    changed = see(args[0] if args else first, first)
    if changed is None:
        return None
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def dense_on(stage: Stage, device: torch.device) -> nn.Module:
    """The dense model where the stage is trained: itself, which nobody may change, or a copy."""
    return stage.dense if device.type == "cpu" else move(deepcopy(stage.dense), device)


def feature_problems(model: nn.Module, wanted: str) -> Iterator[str]:
    """What is wrong with patterns of feature layers: a sentence for each that matches none."""
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns(wanted) if wanted != ADAPTED else ():
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:4])
            yield f"features: '{pattern}' matches no module of the model ({shown}, ...)"


def feature_names(stage: Stage, wanted: str) -> tuple[str, ...]:
    """The modules whose outputs are compared, in model order.

    Raises:
        InvalidSetting: a pattern that matches none.
    """
    if wanted == ADAPTED:
        done = compression_of(stage.model)
        return tuple(name for name, entry in done.layers.items() if entry.rank)
    if problems := list(feature_problems(stage.dense, wanted)):
        raise InvalidSetting(problems)
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
    the same examples, or each dense ``layer`` alone on what the student's layer was given. Tokens
    of padding do not count.

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

    def loss(self, inputs: Inputs, outputs: Tensor, seen: Seen) -> Tensor:
        """The mean over the layers, a scalar."""
        student, target = dict(seen.outputs), self._local(seen)
        last = [name for name, value in student.items() if value is outputs]
        if not self.by_layer and not (self.same_inputs and last):
            target = self._taught(inputs)
            student[""] = outputs
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        return torch.stack([self._gap(student[n], target[n], mask) for n in student]).mean()

    @torch.no_grad()
    def _local(self, seen: Seen) -> dict[str, Tensor]:
        """The dense layers on the student's inputs: no pass of its own where these are equal."""
        if not (self.by_layer or self.same_inputs):
            return {}
        layers = {name: self.dense.get_submodule(name) for name in seen.inputs}
        return {name: layer(seen.inputs[name]) for name, layer in layers.items()}

    @torch.no_grad()
    def _taught(self, inputs: Inputs) -> dict[str, Tensor]:
        """Features and outputs of the dense model."""
        seen = Seen()
        with watching(self.dense, {name: seen.of(name) for name in self.names}):
            outputs = self.teacher(inputs)
        return {**seen.outputs, "": outputs}

    def _gap(self, student: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        if student.shape != target.shape:
            shapes = f"{tuple(student.shape)}, in the dense one {tuple(target.shape)}"
            raise InvalidSetting([f"features: a layer's outputs are {shapes}"])
        target = target.to(student.dtype)
        square, size = (student - target).square(), target.square()
        if mask is not None and mask.shape == student.shape[:2]:
            kept = mask.to(student.device).bool()
            square, size = square[kept], size[kept]
        gap = square.mean()
        return gap / size.mean().clamp_min(torch.finfo(size.dtype).tiny) if self.relative else gap


def structural_problem(methods: Iterable[Any]) -> Iterator[str]:
    """Features are compared layer by layer: the dense model's must be there."""
    for name in dict.fromkeys(method.name for method in methods if method.structural):
        yield f"{name} changes the structure: features are then not those of the dense model"
