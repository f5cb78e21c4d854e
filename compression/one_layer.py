"""Compressing one layer: its method, its init, and what is put in the place of its weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compression.adapters import Adapter, AdapterStart, NoAdapter
from compression.calibration import Calibration
from compression.collecting import collect
from compression.kinds import kind_of
from compression.layers import install
from compression.methods import Method, NoMethod
from compression.methods.base import CompressedWeight, matrix_shape
from compression.precision import narrow
from compression.registry import InvalidSetting, naming
from compression.rules import LayerEntry, Rule, leaves_alone
from compression.stats import LayerStats


class Result(NamedTuple):
    """What became of a layer, and where its adapter starts."""

    name: str
    entry: LayerEntry
    start: AdapterStart | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Work:
    """Compressing the layers of a model, one after the other.

    ``bases`` are those of finished layers, which for now compute with their adapters.
    """

    model: nn.Module
    stats: Mapping[str, LayerStats]
    generator: torch.Generator | None
    calibration: Calibration | None
    bases: dict[nn.Module, Tensor] | None = None

    @contextmanager
    def as_adapted(self) -> Iterator[None]:
        """Within the block each finished layer computes with base + B A; then with its base again.

        Adapters come onto the model when all layers are done. Until then what is calibrated on the
        layers before it would see a base from which the init has taken a part.
        """
        self.bases = {}
        try:
            yield
        finally:
            for layer, base in self.bases.items():
                layer.weight.data = base
            self.bases = None

    def compress(
        self, name: str, layer: nn.Module, rule: Rule, method: Method, rank: int
    ) -> Result:
        """Compress and adapt one layer; of rank 0 is no adapter, where it has ranks."""
        with naming(name), torch.no_grad():
            adapter = rule.adapter
            if kind_of(layer) == "embedding" or (adapter.ranked and not rank):
                adapter = NoAdapter()
            if leaves_alone(method, adapter):
                return Result(name, LayerEntry(method))
            if isinstance(adapter, NoAdapter):
                weight: Tensor = layer.weight  # type: ignore[assignment]
                base = method.compress(weight, self._of(name, method))
                unadapted = [] if adapter == rule.adapter else [f"no {rule.adapter.name}"]
                notes = (*unadapted, *_install(layer, base))
                return Result(name, LayerEntry(base.method), None, notes)
            return self._adapted(name, layer, rule, method, rank)

    def _of(self, name: str, method: Method) -> LayerStats | None:
        """The layer's statistics: of the dense model, or of it as compressed so far."""
        if not method.sequential:
            return self.stats.get(name)
        if self.calibration is None:
            raise InvalidSetting([f"{method.name}: needs calibration examples, and has none"])
        return collect(self.model, [name], method.needs, self.calibration)[name]

    def _adapted(
        self, name: str, layer: nn.Module, rule: Rule, method: Method, rank: int
    ) -> Result:
        adapter, weight = rule.adapter, layer.get_parameter("weight")
        alpha = adapter.scale(rule.alpha, rule.rank) * rank if adapter.scaled else 0.0
        compress = partial(method.compress, stats=self._of(name, method))
        b = a = None
        if adapter.takes_delta:
            w, stats = weight.detach().float(), self.stats.get(name)
            base, b, a = rule.init.start(w, compress, rank, stats, self.generator)
        else:
            base = compress(weight)
        notes = [_lower(rule.rank, rank, weight)] if rank < rule.rank else []
        dense = weight.detach() if adapter.merges else None
        notes += _install(layer, base)
        if base.method.base_is_gone and layer.bias is not None:
            # A new tensor: the old one may be the dense model's too.
            layer.bias = nn.Parameter(layer.bias.detach().clone())  # type: ignore[operator]
        start = AdapterStart(rank, alpha, b, a, dense)
        self._add(layer, start, adapter)
        return Result(name, LayerEntry(base.method, adapter, rank, alpha), start, tuple(notes))

    def _add(self, layer: nn.Module, start: AdapterStart, adapter: Adapter) -> None:
        """B A, of factors as they will be stored, onto a layer within :meth:`as_adapted`."""
        if self.bases is None or start.B is None or start.A is None:
            return
        base: Tensor = layer.weight.data  # type: ignore[assignment]
        slots = adapter.layout({"": (tuple(base.shape), start.rank)}).values()
        dtype = min((slot.dtype for slot in slots), key=lambda dtype: dtype.itemsize)
        scale = start.alpha / start.rank
        b, a = (narrow(factor, dtype).float() for factor in (start.B / scale, start.A))
        self.bases[layer] = base
        layer.weight.data = (base.float() + (scale * b @ a).view_as(base)).to(base)


def _lower(asked: int, rank: int, weight: Tensor) -> str:
    if rank == min(matrix_shape(tuple(weight.shape))):
        return f"rank {asked} clamped to {rank}"
    return f"rank {rank}, allotted of {asked} on average"


def put(layer: nn.Module, weight: Tensor) -> None:
    """A new dense weight. The old tensor may be another model's too, and is left as it is."""
    old: Tensor = layer.weight  # type: ignore[assignment]
    if weight.shape != old.shape:
        shapes = f"{tuple(weight.shape)} for a layer of {tuple(old.shape)}"
        raise ValueError(f"a plan has a new weight of {shapes}")
    layer.weight = nn.Parameter(weight.to(old), requires_grad=False)


def _install(layer: nn.Module, base: CompressedWeight) -> list[str]:
    """Put the compressed weight into its layer; remarks on it."""
    if isinstance(base.method, NoMethod):
        put(layer, base.dense())  # an init may have moved a part of W into the adapter
        return []
    weight: Tensor = layer.weight  # type: ignore[assignment]
    before = weight.nbytes
    install(layer, base)
    if base.stored_bytes() > before:
        return [f"{base.method.name} stores {base.stored_bytes()} bytes, dense {before}"]
    limit = base.method.rank_limit(base.shape)
    if limit is None or not limit.reached:
        return []
    return [f"{base.method.name} has no fewer values at rank {limit.asked}, dense is exact"]
