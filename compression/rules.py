"""Which layers are compressed, and how: rules, target layers, and what was done in the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

from torch import nn

from compression.adapters import Adapter, NoAdapter
from compression.edits import Edit
from compression.inits import Init, Zeros
from compression.kinds import bare, kind_of
from compression.methods import Method, NoMethod, chain
from compression.methods.base import Shape
from compression.methods.chain import split
from compression.registry import InvalidSetting
from compression.stats import Need


@dataclass(frozen=True)
class Rule:
    """How the target layers that match ``pattern`` are compressed and adapted.

    ``rank`` is at most min(out, in) of the rule's largest layer, and clamped to that of each other
    one with the scale ``alpha / rank`` kept; ``alpha`` None means a scale of 1.
    """

    pattern: str = "*"
    methods: tuple[Method, ...] = (NoMethod(),)
    init: Init = field(default_factory=Zeros)
    adapter: Adapter = field(default_factory=NoAdapter)
    rank: int = 0
    alpha: float | None = None

    @cached_property
    def method(self) -> Method:
        """The methods as one.

        Raises:
            InvalidSetting: there is none, or two neighbours do not fit.
        """
        if not self.methods:
            raise InvalidSetting([f"rule '{self.pattern}': needs at least one method"])
        return chain(self.methods)

    @cached_property
    def structural(self) -> tuple[Method, ...]:
        """Those of the methods that change the structure: they come first."""
        return tuple(split(self.method)[0])

    @cached_property
    def kept(self) -> Method:
        """The other methods as one: for the layers that these leave."""
        return split(self.method)[1]

    @property
    def needs(self) -> frozenset[Need]:
        """What calibration has to compute for it, of the dense model or of what edits leave."""
        return self.method.needs | self.init_needs

    @property
    def init_needs(self) -> frozenset[Need]:
        """What its init and its adapter need, if there is an adapter to start."""
        if isinstance(self.adapter, NoAdapter):
            return frozenset()
        return self.init.needs | self.adapter.needs


def dense_needs(rules: Iterable[Rule]) -> frozenset[Need]:
    """What calibration has to compute of the dense model.

    Where a rule changes the structure that is for the first edits alone: all else looks at what
    these leave.
    """
    rules = list(rules)
    structural = [rule.structural[0].needs for rule in rules if rule.structural]
    return frozenset[Need]().union(*(structural or [rule.needs for rule in rules]))


@dataclass(frozen=True)
class LayerEntry:
    """What was done to one layer: its resolved method, and its adapter with rank and alpha."""

    method: Method
    adapter: Adapter = field(default_factory=NoAdapter)
    rank: int = 0
    alpha: float = 0.0

    @property
    def adapted(self) -> bool:
        """Whether the layer carries an adapter."""
        return not isinstance(self.adapter, NoAdapter)


@dataclass(frozen=True)
class Compression:
    """What was done to a model.

    ``edits`` of the structure came first, in this order. ``layers`` by dotted name, without those
    left as they were; ``rest`` the method that all other floating-point tensors went through;
    ``notes`` are remarks for people.
    """

    layers: Mapping[str, LayerEntry] = field(default_factory=dict)
    rest: Method = field(default_factory=NoMethod)
    edits: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = ()

    def adapted(self) -> dict[Adapter, dict[str, LayerEntry]]:
        """The layers that carry an adapter, by adapter."""
        found: dict[Adapter, dict[str, LayerEntry]] = {}
        for name, entry in self.layers.items():
            if entry.adapted:
                found.setdefault(entry.adapter, {})[name] = entry
        return found


def compression_of(model: nn.Module) -> Compression:
    """What was done to ``model``: nothing, for a dense one."""
    found = getattr(model, "compression", None)
    return found if isinstance(found, Compression) else Compression()


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """All Linear, Conv2d and Embedding layers by dotted name, in model order."""
    wrapped = set(_inside_wrappers(model))
    return {
        name: module
        for name, module in model.named_modules()
        if name and name not in wrapped and kind_of(bare(module)) is not None
    }


def patterns(text: str) -> tuple[str, ...]:
    """Patterns written in one text with commas between them."""
    return tuple(pattern.strip() for pattern in text.split(","))


def target_layers(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """The layers whose dotted names match a pattern (fnmatch), in model order.

    Wildcards mean Linear and Conv2d layers. An Embedding is a target only where a pattern names it:
    ``*word_embeddings`` does, ``*`` and ``model.*`` do not.

    Raises:
        InvalidSetting: a pattern that matches no such layer, unless structure edits may have
            removed it.
    """
    layers = layers_of(model)
    if not compression_of(model).edits:
        _check_patterns(model, layers, patterns)
    return {
        name: module
        for name, module in layers.items()
        if any(_matches(name, module, pattern) for pattern in patterns)
    }


def _matches(name: str, module: nn.Module, pattern: str) -> bool:
    if not fnmatchcase(name, pattern):
        return False
    own, asked = name.rpartition(".")[2], pattern.rpartition(".")[2]
    return kind_of(bare(module)) != "embedding" or (asked != "*" and fnmatchcase(own, asked))


def _check_patterns(
    model: nn.Module, layers: Mapping[str, nn.Module], patterns: Sequence[str]
) -> None:
    errors = []
    for pattern in patterns:
        if not any(_matches(name, module, pattern) for name, module in layers.items()):
            other = [
                f"{n} is a {type(m).__name__}" for n, m in model.named_modules() if n == pattern
            ]
            hint = other[0] if other else f"layers: {', '.join(layers) or '(none)'}"
            errors.append(f"targets: '{pattern}' matches no Linear, Conv2d or Embedding; {hint}")
    if errors:
        raise InvalidSetting(errors)


def _inside_wrappers(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if name and "base_layer" in module._modules:
            yield from (f"{name}.{inner}" for inner, _ in module.named_modules() if inner)


def assign(rules: Sequence[Rule], layers: Mapping[str, nn.Module]) -> dict[Rule, list[str]]:
    """The layers of each rule; the first rule that matches a layer takes it.

    Raises:
        InvalidSetting: a rule that matches no target layer.
    """
    idle = [r.pattern for r in rules if not any(fnmatchcase(n, r.pattern) for n in layers)]
    if idle:
        known = ", ".join(layers)
        raise InvalidSetting(f"rule '{p}' matches no target layer; targets: {known}" for p in idle)
    assigned: dict[Rule, list[str]] = {}
    for name in layers:
        rule = next((r for r in rules if fnmatchcase(name, r.pattern)), None)
        if rule:
            assigned.setdefault(rule, []).append(name)
    return assigned


def leaves_alone(method: Method, adapter: Adapter) -> bool:
    """Whether a layer stays as it is."""
    return isinstance(method, NoMethod) and isinstance(adapter, NoAdapter)


def shapes(model: nn.Module, entries: Mapping[str, LayerEntry]) -> dict[str, tuple[Shape, int]]:
    """Weight shape and rank of the layers: what an adapter's layout is computed from."""
    return {
        name: (tuple(bare(model.get_submodule(name)).weight.shape), entry.rank)
        for name, entry in entries.items()
    }
