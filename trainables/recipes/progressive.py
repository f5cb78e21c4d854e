"""The base fades out while the adapter learns to stand for it: PC-LoRA."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from fractions import Fraction

import torch
from torch import Tensor, nn

from compression.adapters import Adapter
from compression.inits import Init
from compression.kinds import bare
from compression.methods import Method
from compression.methods.chain import split
from compression.model import compression_of
from compression.registry import FloatRange, Values, knob
from trainables.checkpoint import State, flatten, unflatten
from trainables.distillation import watching
from trainables.hardware.devices import move
from trainables.recipes.base import RECIPES, Run
from trainables.recipes.taught import Taught
from trainables.recipes.training import Lesson, Training
from trainables.record import Trial
from trainables.splits import Inputs
from trainables.stage import Stage
from trainables.tasks.base import Forward, Task

DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: 1 - t,
    "sine": lambda t: 1 - math.sin(math.pi * t / 2),
    "cosine": lambda t: math.cos(math.pi * t / 2),
}
"""lambda of t = n / q, from 1 at 0 to 0 at 1: sine falls at once, cosine late."""


@RECIPES.register("progressive")
class Progressive(Taught):
    """PC-LoRA: ``y = lambda(n) (W x + b) + B A x + c``, lambda falling from 1 to 0; A, B, c train.

    n is the step as a share of all, and lambda is 0 from n = ``end`` (the paper's q) on. What ships
    is ``B A x + c``, which method ``drop_base`` stores, and every report is of that: of lambda = 0,
    whatever lambda is. The accuracy of the blend is reported as ``blended_...``. c starts at 0.

    Where an init starts at a delta B0 A0 of its own (``residual``: the truncated SVD), only what it
    lacks fades, ``lambda (W - B0 A0) x``, and c starts at b: lambda = 1 is the dense model always,
    to the rounding of what is stored in half precision.

    The loss is ``w L_task + (1 - w) L_features``, features being those of the layers and the
    outputs. The sources at hand fix neither q, w, rank nor the layers: the defaults are those of
    unofficial code.

    Source: PC-LoRA, arXiv 2406.09117, catalogue 002.
    """

    catalogue_id = "002"
    keeps_base = False
    task_weight: float = knob(
        0.2, FloatRange(0.0, 1.0), help="of the task's loss; 1: nothing is learnt from the teacher"
    )
    decay: str = knob("linear", Values(tuple(DECAYS)), help="how lambda falls")
    end: float = knob(
        0.8, FloatRange(0.0, 1e6), help="when lambda is 0, as a share of all steps: at most 1"
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if type(self.end) in (int, float) and not 0 < self.end <= 1:
            where = "after training" if self.end > 1 else "before it has begun"
            yield f"{self.name}.end: the decay would end {where}; expected above 0, at most 1"

    def min_fidelity(self, epochs: int) -> int:
        """Epochs until lambda is 0: before, what ships is not yet what is trained."""
        # 0.55 of 100 is 55, not 55.000...01
        return math.ceil(Fraction(str(self.end)) * epochs)

    def refusals(
        self,
        model: nn.Module,
        methods: Collection[Method],
        adapters: Collection[Adapter],
        inits: Collection[Init] = (),
    ) -> Iterator[str]:
        """See :meth:`Recipe.refusals`."""
        yield from super().refusals(model, methods, adapters, inits)
        for method in dict.fromkeys(methods):
            structural, kept = split(method)
            if structural:
                yield f"what fades is the dense model's own layers, and {method.name} changes them"
            elif not kept.base_is_gone:
                yield f"leaves nothing of the base, and {method.name} keeps it: use drop_base"
        for name in dict.fromkeys(a.name for a in adapters if not a.additive):
            yield f"adapter {name} is no sum of base and delta: use lora"

    def start(self, stage: Stage, task: Task, trial: Trial) -> Run:
        """See :class:`Recipe`."""
        lesson = self.lesson(stage)
        return Fading(stage, task, trial, lesson, DECAYS[self.decay], self.end)


class Fading(Training):
    """A training under a base that fades out. ``terms`` are what fades, by layer."""

    def __init__(
        self,
        stage: Stage,
        task: Task,
        trial: Trial,
        lesson: Lesson,
        decay: Callable[[float], float],
        end: float,
    ) -> None:
        super().__init__(stage, task, trial, lesson)
        self.decay, self.end = decay, Fraction(str(end))  # the decimal that was written
        self.terms = fading_terms(stage, self.device)

    @property
    def fade(self) -> float:
        """The lambda of the next step; exactly 0 from the end of the decay on."""
        done = self.steps / (self.end * self.total_steps)
        return self.decay(float(done)) if done < 1 else 0.0

    def changed(self) -> AbstractContextManager[None]:
        """See :meth:`Training.changed`: the blend. At lambda = 0 no dense weight is touched."""
        fade = self.fade
        seers = {name: _adding(fade, term) for name, term in self.terms.items()} if fade else {}
        return watching(self.stage.model, seers)

    def blended(self) -> Forward:
        """See :meth:`Run.blended`."""
        return self._blend if self.fade else self.stage.forward

    def _blend(self, inputs: Inputs) -> Tensor:
        with self.changed():
            return self.stage.forward(inputs)

    def state(self) -> State:
        """See :class:`Run`: also what fades, by its hash."""
        return flatten({**unflatten(super().state()), "terms": self._terms_hash()})

    def restore(self, state: State) -> None:
        """See :class:`Run`.

        Raises:
            ValueError: compressed again, the model starts elsewhere, so that something else fades.
        """
        if unflatten(state)["terms"] != self._terms_hash():
            raise ValueError("compressed here, the model starts at another delta than it did")
        super().restore(state)

    def _terms_hash(self) -> str:
        found = hashlib.sha256()
        for term in self.terms.values():
            for parameter in term.parameters():
                found.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()


def _adding(fade: float, term: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def add(given: Tensor, output: Tensor) -> Tensor:
        faded: Tensor = fade * term(given)
        return output + faded

    return add


@torch.no_grad()
def fading_terms(stage: Stage, device: torch.device) -> Mapping[str, nn.Module]:
    """What fades of each layer, ``(W - B0 A0) x + (b - c0)``; c0 is set where the delta is 0.

    Where it is, that is the dense layer itself, which nobody may change, or its copy elsewhere.
    """
    stage.dense.requires_grad_(False)
    done, terms = compression_of(stage.model), {}
    for name, entry in done.layers.items():
        if not entry.adapted:
            continue
        layer, delta = stage.dense.get_submodule(name), entry.adapter.delta(stage.model, name)
        bias = bare(stage.model.get_submodule(name)).bias
        if delta.any() or device.type != "cpu":
            layer = move(copy.deepcopy(layer), device)
        if delta.any():
            layer.get_parameter("weight").sub_(delta.view_as(layer.get_parameter("weight")))
            if bias is not None:
                layer.get_parameter("bias").sub_(bias)
        elif bias is not None:
            bias.zero_()
        terms[name] = layer
    return terms
