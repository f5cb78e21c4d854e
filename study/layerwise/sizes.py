"""Bytes of a suggestion's file, known before any weight of it is made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, cached_property, partial

import torch
from torch import Tensor

from compression.adapters import Adapter, NoAdapter
from compression.container import file_bytes
from compression.edits import EDITS
from compression.kinds import bare, kind_of
from compression.methods import METHODS, Method, NoMethod
from compression.methods.base import Shape, Slot
from compression.registry import InvalidSetting
from compression.rules import Compression, LayerEntry, Rule, compression_of, target_layers
from compression.stored import stored_tensors, told
from study.layerwise.groups import owned
from study.layerwise.space import LayerwiseSpace
from trainables.build import about, build, resolve_rule
from trainables.record import NONE, LayerRule, Trial
from trainables.tasks import Prepared, Task

Entries = Mapping[str, LayerEntry]
DENSE = LayerRule((NONE,))


class Sizes:
    """What files of a layer-wise space's trials hold, by the formulas of methods and adapters.

    Exact where a layout follows from shapes and settings alone. An estimate where it follows from
    values, as a rank by energy or a sparse form: then the group was compressed once by itself,
    without an adapter, and is taken to be as large beside others and under any adapter and init;
    and for adapters that lose ranks while they train, or end inside the weight, whose layers are
    taken to be stored without them. Where the model is a skeleton, whose values mean nothing,
    ``estimates`` are to be refused.
    """

    def __init__(
        self, space: LayerwiseSpace, task: Task, data: Prepared, estimates: bool = True
    ) -> None:
        self._estimates = estimates
        self.space, self.task, self.data = space, task, data
        layers = target_layers(data.model, task.targets)
        self._layers = {name: bare(layer) for name, layer in layers.items()}
        self._shapes: dict[str, Shape] = {
            name: tuple(layer.weight.shape) for name, layer in self._layers.items()
        }
        texts = {pattern: pattern for group in space.groups for pattern in group.patterns}
        self._owned = owned(texts, layers)
        self.entries: Callable[[LayerRule], Entries] = cache(self._entries)
        self._alone: Callable[[LayerRule], Entries] = cache(self._compressed)
        self.tensor_bytes: Callable[[tuple[LayerRule, ...]], int] = cache(self._tensor_bytes)

    def file_bytes(self, trial: Trial) -> int:
        """Length of the file of a trial's model, header included."""
        entries = {n: LayerEntry(NoMethod()) for n in self._layers}
        for rule in trial.layers:
            entries |= self.entries(rule)
        rest = METHODS.build(trial.rest.name, trial.rest.args)
        untied = tuple(
            EDITS.build("untie", {"module": name})
            for name, entry in entries.items()
            if name in self._shared and (entry.adapted or not isinstance(entry.method, NoMethod))
        )
        done = Compression(told(entries, rest), rest, untied)
        return file_bytes(self._tensors(entries, rest), done, about(trial))

    @cached_property
    def dense_bytes(self) -> int:
        """Length of the dense model's file."""
        return file_bytes(self._dense, Compression(), about(Trial(self.space.task, (DENSE,))))

    def _tensor_bytes(self, rules: tuple[LayerRule, ...]) -> int:
        """Bytes of the weights and adapters of some rules' layers alone, without a header."""
        entries = {name: entry for rule in rules for name, entry in self.entries(rule).items()}
        slots = [slot for name in entries for slot in self._slots(name, entries[name]).values()]
        slots += _adapters(entries, self._shapes).values()
        return sum(slot.nbytes for slot in slots)

    def _entries(self, rule: LayerRule) -> Entries:
        """What becomes of the layers that are a rule's own."""
        made, names = resolve_rule(rule), self._owned[rule.pattern]
        try:
            if type(made.adapter).allocate is not Adapter.allocate:
                return self._compressed(rule)
            return {name: self._by_formula(made, name) for name in names}
        except InvalidSetting:  # known after compressing
            alone = self._alone(LayerRule(rule.methods, pattern=rule.pattern))
            own = {name: replace(made, methods=(alone[name].method,)) for name in alone}
            return {name: self._by_formula(rule, name) for name, rule in own.items()}

    def _by_formula(self, rule: Rule, name: str) -> LayerEntry:
        shape, adapter = self._shapes[name], rule.adapter
        rule.method.layout(shape)
        stays = adapter.merges or isinstance(adapter, NoAdapter)
        if stays or kind_of(self._layers[name]) == "embedding":
            return LayerEntry(rule.method)
        rank = adapter.ranks(rule.rank, {name: shape}, {})[name] if adapter.ranked else 0
        alpha = adapter.scale(rule.alpha, rule.rank) * rank if adapter.scaled else 0.0
        return LayerEntry(rule.method, adapter, rank, alpha)

    def _compressed(self, rule: LayerRule) -> Entries:
        """The same, by compressing these layers of the dense model.

        Raises:
            InvalidSetting: there are to be no estimates.
        """
        if not self._estimates:
            raise InvalidSetting([f"{rule.methods[0]}: bytes are known after compressing"])
        names = set(self._owned[rule.pattern])
        model = build(self.task, self.data, Trial(self.space.task, (rule,)))
        done = compression_of(model).layers
        return {name: done[name] for name in self._layers if name in names & done.keys()}

    def _slots(self, name: str, entry: LayerEntry) -> dict[str, Slot]:
        """A layer's weight as it is stored: packed, or dense."""
        if isinstance(entry.method, NoMethod):
            shape, dtype = self._shapes[name], self._layers[name].weight.dtype
            return {"weight": Slot(dtype, shape, "base")}
        return entry.method.layout(self._shapes[name])

    @cached_property
    def _dense(self) -> dict[str, Tensor]:
        """The dense model's file."""
        return {name: stored.tensor for name, stored in stored_tensors(self.data.model).items()}

    @cached_property
    def _shared(self) -> dict[str, str]:
        """Layers with another's weight, and that weight's other name."""
        named = defaultdict[int, list[str]](list)
        for name, parameter in self.data.model.named_parameters(remove_duplicate=False):
            named[id(parameter)].append(name)
        return {
            name: next(other for other in names if other != f"{name}.weight")
            for name, layer in self._layers.items()
            if len(names := named[id(layer.weight)]) > 1
        }

    def _tensors(self, entries: Entries, rest: Method) -> dict[str, Tensor]:
        """The file's tensors, without their values."""
        empty = partial(torch.empty, device="meta")
        dense = {name: empty(t.shape, dtype=t.dtype) for name, t in self._dense.items()}
        found = dense if isinstance(rest, NoMethod) else _cast(dense, entries, rest)
        for name, entry in entries.items():
            if isinstance(entry.method, NoMethod) and not (entry.adapted and name in self._shared):
                continue
            old = found.pop(f"{name}.weight", None)
            if old is not None and name in self._shared:
                found[self._shared[name]] = old
            slots = self._slots(name, entry)
            found |= {f"{name}.{k}": empty(s.shape, dtype=s.dtype) for k, s in slots.items()}
        for key, slot in _adapters(entries, self._shapes).items():
            found[key] = empty(slot.shape, dtype=slot.dtype)
        return found


def _cast(tensors: Mapping[str, Tensor], entries: Entries, rest: Method) -> dict[str, Tensor]:
    """The tensors that no rule compresses as ``rest`` stores them."""

    def stored(name: str, tensor: Tensor) -> Tensor:
        if name.removesuffix(".weight") in entries or not tensor.is_floating_point():
            return tensor
        return tensor.to(rest.layout(tuple(tensor.shape))["weight"].dtype)

    return {name: stored(name, tensor) for name, tensor in tensors.items()}


def _adapters(entries: Entries, shapes: Mapping[str, Shape]) -> dict[str, Slot]:
    """The slots of adapters, of each over all its layers."""
    seats = defaultdict[Adapter, dict[str, tuple[Shape, int]]](dict)
    for name, entry in entries.items():
        if entry.adapted:
            seats[entry.adapter][name] = shapes[name], entry.rank
    return {k: s for adapter, layers in seats.items() for k, s in adapter.layout(layers).items()}
