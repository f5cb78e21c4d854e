"""Dividing a model between the blocks of a stack, as transformers are built.

The model runs its own code on a twin: a copy of the few modules on the way to the stack, which
shares everything else. In the twin a block can be skipped without a hook on the shared model.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.frozen.cuts import Capture, Cut, NoCut, tensors_within
from trainables.frozen.identity import code_hash, config_text, task_text
from trainables.splits import Inputs
from trainables.tasks.base import Forward, Task

HIDDEN = "prefix_hidden_states"


class _Reached(Exception):  # noqa: N818  # no error: it ends a forward pass at the cut
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class _Call(NamedTuple):
    """One call of a module: when it began and ended, its hidden states and what it gave."""

    begin: int
    end: int
    hidden: object
    outputs: Any


@dataclass(frozen=True, eq=False)
class BlockCut(Cut):
    """Values are the hidden states behind block ``last`` of a stack, (b, t, d)."""

    task: Task = field(kw_only=True)
    stack: str = field(kw_only=True)
    last: int = field(kw_only=True)
    outputs: int = field(kw_only=True)
    """How many things a block gives in a tuple; 0 for a tensor alone."""
    shape: tuple[int, ...] | None = field(kw_only=True)
    """Of the one input tensor without its batch, None for inputs by keyword."""

    @property
    def keeps_inputs(self) -> bool:  # type: ignore[override]
        """Masks and positions are made anew from the inputs."""
        return self.shape is None

    def capture(self, model: nn.Module) -> Capture:
        """See :class:`Cut`."""
        block = model.get_submodule(f"{self.stack}.{self.last}")

        def stop(*args: Any, **kwargs: Any) -> None:
            raise _Reached(_hidden_of(block(*args, **kwargs)))

        twin = _twin(model, self.stack, {self.last: stop})

        def run(inputs: Inputs) -> dict[str, Tensor]:
            try:
                self.task.forward(twin, inputs)
            except _Reached as reached:
                return {HIDDEN: reached.hidden}
            raise RuntimeError(f"'{self.stack}.{self.last}' was not called")

        return run

    def resume(self, model: nn.Module) -> Forward:
        """See :class:`Cut`."""
        given = threading.local()

        def skip(*args: Any, **kwargs: Any) -> Any:
            return self._wrapped(_argument(args, kwargs))

        def insert(*args: Any, **kwargs: Any) -> Any:
            return self._wrapped(given.hidden)

        twin = _twin(model, self.stack, dict.fromkeys(range(self.last), skip) | {self.last: insert})

        def run(values: Inputs) -> Tensor:
            if isinstance(values, Tensor):
                raise TypeError("expected the values at the cut by name, got a tensor")
            rest = {key: value for key, value in values.items() if key != HIDDEN}
            given.hidden = values[HIDDEN]
            try:
                return self.task.forward(twin, self._inputs(rest, values[HIDDEN]))
            finally:
                del given.hidden

        return run

    def _inputs(self, rest: Mapping[str, Tensor], hidden: Tensor) -> Inputs:
        if self.shape is None:
            return rest
        return hidden.new_zeros(()).expand(len(hidden), *self.shape)  # looked at by nobody

    def _wrapped(self, hidden: Any) -> Any:
        return (hidden, *[None] * (self.outputs - 1)) if self.outputs else hidden


def find(task: Task, model: nn.Module, changed: frozenset[str], sample: Inputs) -> BlockCut | NoCut:
    """The cut before the first block with a changed layer, in the stack that saves most.

    A stack is an ``nn.ModuleList`` or ``nn.Sequential`` whose items run one after the other, each
    on the hidden states of the one before. Where the first block is changed there is no cut: what
    the embeddings cost is less than reading their outputs.
    """
    calls = _calls(task, model, sample)
    starts = [calls[name][0].begin for name in changed if calls.get(name)]
    if not starts:
        return NoCut("the changed layers are not called")
    stacks = {name: _chain(name, len(m), calls) for name, m in _lists(model)}
    best, most = None, 0
    for name, chain in stacks.items():
        before = sum(call.end < min(starts) for call in chain)
        frozen = [model.get_submodule(f"{name}.{i}") for i in range(before)]
        size = sum(p.numel() for block in frozen for p in block.parameters())
        if size > most:
            best, most = (name, before - 1, chain[before - 1].outputs), size
    if best is None:
        if any(stacks.values()):
            return NoCut("the first block of layers is changed")
        return NoCut("the model has no stack of blocks that run one after the other")
    return _cut(task, model, changed, sample, calls, *best)


def _cut(
    task: Task,
    model: nn.Module,
    changed: frozenset[str],
    sample: Inputs,
    calls: Mapping[str, list[_Call]],
    stack: str,
    last: int,
    outputs: Any,
) -> BlockCut:
    end = calls[f"{stack}.{last}"][0].end
    behind = {name for name, found in calls.items() if found and found[0].begin > end}
    outside = (*behind, *changed)
    state = [name for name in tensors_within(model, "") if not _inside(name, outside)]
    code = code_hash({n: m for n, m in model.named_modules() if not _inside(n, outside)})
    where = f"{stack}.{last}|{task_text(task)}|{config_text(model)}"
    return BlockCut(
        key=hashlib.sha256(f"blocks|{where}|{code}".encode()).hexdigest(),
        state=tuple(sorted(state)),
        after=f"{stack}.{last}",
        names=(HIDDEN,),
        task=task,
        stack=stack,
        last=last,
        outputs=len(outputs) if isinstance(outputs, tuple) else 0,
        shape=tuple(sample.shape[1:]) if isinstance(sample, Tensor) else None,
    )


def _inside(name: str, modules: Collection[str]) -> bool:
    """Whether a module or tensor is one of these modules or lies within one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _lists(model: nn.Module) -> list[tuple[str, nn.ModuleList | nn.Sequential]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if name and isinstance(module, nn.ModuleList | nn.Sequential)
    ]


def _chain(name: str, length: int, calls: Mapping[str, list[_Call]]) -> list[_Call]:
    """The calls of a stack's blocks; empty unless each is called once, on what came before."""
    found = [calls.get(f"{name}.{i}", []) for i in range(length)]
    if any(len(each) != 1 for each in found):
        return []
    chain = [each[0] for each in found]
    linked = all(_hidden_of(a.outputs) is b.hidden for a, b in zip(chain, chain[1:], strict=False))
    return chain if linked and isinstance(_hidden_of(chain[-1].outputs), Tensor) else []


def _calls(task: Task, model: nn.Module, sample: Inputs) -> dict[str, list[_Call]]:
    """Every call of every module in one forward pass, by dotted name."""
    begun: dict[str, list[tuple[int, object]]] = {}
    calls: dict[str, list[_Call]] = {}
    clock = iter(range(1 << 60))
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            begun.setdefault(name, []).append((next(clock), _argument(args, kwargs)))

        def after(_: nn.Module, args: Any, outputs: Any) -> None:
            begin, hidden = begun[name].pop()
            calls.setdefault(name, []).append(_Call(begin, next(clock), hidden, outputs))

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))

    try:
        for name, module in model.named_modules():
            watch(name, module)
        with torch.random.fork_rng(devices=[]):
            task.forward(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _hidden_of(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) and outputs else outputs


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs.get("hidden_states")


def _twin(model: nn.Module, stack: str, replaced: Mapping[int, Callable[..., Any]]) -> nn.Module:
    """A model that shares all with ``model`` but calls other functions for some blocks."""
    twin = _shallow(model)
    place = twin
    for part in stack.split("."):
        inner = _shallow(place._modules[part])
        place._modules[part] = inner
        place = inner
    for index, function in replaced.items():
        block = _shallow(place._modules[str(index)])
        block.forward = function
        place._modules[str(index)] = block
    return twin


def _shallow(module: nn.Module | None) -> nn.Module:
    """A module of the same class, with the same tensors and parts, in a dict of its own."""
    if module is None:
        raise RuntimeError("the stack is not where it was")
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__["_modules"] = dict(module._modules)
    return twin
