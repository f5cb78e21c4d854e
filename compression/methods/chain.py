"""One method after another: each stores what the one before left in floating point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from compression.methods.base import (
    METHODS,
    CompressedWeight,
    Method,
    Opened,
    Plan,
    RankLimit,
    Scene,
    Shape,
    Slot,
)
from compression.methods.nested_chain import NestedChain, filled, joined
from compression.methods.none import NoMethod
from compression.registry import InvalidSetting, Scalar, naming
from compression.stats import LayerStats, Need

_ALL = ""


@dataclass(frozen=True, repr=False)
class Chain(NestedChain):
    """``first``, whose floating-point slots ``then`` packs: factors of svd, values that n_m keeps.

    Stored bytes: those of ``first`` without these slots, and for each of them, as a matrix of the
    shape that ``first.inner`` gives, those of its method; a matrix with more cells than the slot
    has values ends in zeros, which count as well. Before compressing ``then`` has one
    method for all slots; resolved, it may differ from slot to slot.

    Raises:
        InvalidSetting: ``first`` leaves no such slot, or ``then`` has to be calibrated, for which
            the slots have no inputs, or plans over all layers. After a structural method anything
            may follow, on the layers that it leaves.
    """

    kinds: ClassVar[Any] = property(lambda self: self._kinds())
    needs: ClassVar[Any] = property(lambda self: self._needs())
    refills: ClassVar[Any] = property(lambda self: self.first.refills)

    def _kinds(self) -> frozenset[str]:
        """Those of the first method; of all, where the layers that it leaves are the next one's."""
        after = [method.kinds for method in self.then.values() if self.first.structural]
        return self.first.kinds.intersection(*after)

    def _needs(self) -> frozenset[Need]:
        return self.first.needs.union(*(method.needs for method in self.then.values()))

    def __post_init__(self) -> None:
        """Check that the methods can follow each other."""
        object.__setattr__(self, "then", MappingProxyType(dict(self.then)))
        object.__setattr__(self, "name", "+".join(_names(self)))
        super().__post_init__()

    def _problems(self) -> Iterator[str]:
        if not self.then:
            yield f"{self.first.name}: nothing follows it in this chain"
        if isinstance(self.first, Chain) and split(self.first)[0]:
            yield f"{self.first.name}: a chain which changes the structure cannot be one link"
        for method in dict.fromkeys(self.then.values()):
            if not self.first.may_go_first:
                yield f"{self.first.name}: leaves nothing in floating point for {method.name}"
            if method.any_shape:
                yield f"{method.name}: no use in a chain; {self.first.name} has its own formats"
            if not self.first.structural:
                yield from self._problems_of_slots(method)

    def _problems_of_slots(self, method: Method) -> Iterator[str]:
        """Why a method cannot take slots, which are matrices and no layers."""
        head = method.first if isinstance(method, Chain) else method
        if method.base_is_gone:
            yield f"{method.name}: stores nothing, and {self.first.name} leaves something to store"
        if method.needs:
            needs = ", ".join(sorted(method.needs))
            yield (
                f"{method.name}: needs calibration ({needs}) and can only stand first; "
                f"what {self.first.name} leaves has none"
            )
        if head.structural or type(head).plan is not Method.plan:
            yield (
                f"{head.name}: looks at all layers together and can only stand first, or after "
                f"methods that change the structure; {self.first.name} stores each layer by itself"
            )
        if "linear" not in method.kinds:
            yield f"{method.name}: takes no matrix, which is what {self.first.name} leaves"

    def __repr__(self) -> str:
        return " + ".join(map(str, (self.first, *dict.fromkeys(self.then.values()))))

    def __hash__(self) -> int:
        return hash((self.first, tuple(self.then.items())))

    def __reduce__(self) -> Any:
        """Mapping proxies don't pickle; plain dicts do."""
        return Chain, (self.first, dict(self.then))

    def args(self) -> dict[str, Scalar]:
        """None of its own: see :func:`method_to_json`."""
        return {}

    @property
    def sequential(self) -> bool:
        """See :class:`Method`."""
        return self.first.sequential

    def refusals(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[str]:
        """Those of the first method; of all, where the layers that it leaves are the next one's."""
        yield from self.first.refusals(model, layers)
        for method in dict.fromkeys(self.then.values()) if self.first.structural else ():
            yield from method.refusals(model, layers)

    def rank_limit(self, shape: Shape) -> RankLimit | None:
        """That of the first method which stores values: see :func:`compression.rank_limits`.

        After a structural method a layer is at most as large, and the limit too.
        """
        return (self._after() if self.first.structural else self.first).rank_limit(shape)

    def density(self, shape: Shape) -> tuple[int, int] | None:
        """That of the first method."""
        return self.first.density(shape)

    def keeping(self, count: int) -> Method:
        """The first method with another density, followed by the same."""
        return Chain(self.first.keeping(count), self.then)

    def plan(self, scene: Scene) -> Plan:
        """The first method's plan, each of its methods followed by the same.

        Raises:
            ValueError: the first changes the structure; the links are planned one by one then, see
                :func:`split`.
        """
        if self.first.structural:
            raise ValueError(f"{self.name}: what follows {self.first.name} is planned after it")
        plan = self.first.plan(scene)
        specs = {name: Chain(spec, self.then) for name, spec in plan.specs.items()}
        return replace(plan, specs=specs)

    def _after(self, slot: str = _ALL) -> Method:
        """The method of a slot.

        Raises:
            InvalidSetting: a foreign file names none.
        """
        found = self.then.get(slot, self.then.get(_ALL))
        if found is None:
            named = ", ".join(self.then)
            text = f"{self.first.name}: no method for its slot '{slot}', only for: {named}"
            raise InvalidSetting([text])
        return found

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """What the methods of the slots leave in floating point."""
        return {
            joined(slot, deeper): matrix
            for slot, inner in self.first.inner(shape).items()
            for deeper, matrix in self._after(slot).inner(inner).items()
        }

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        return self._then(*self.first.encode(weight, stats), tuple(weight.shape))

    def refill(
        self, tensors: Mapping[str, Tensor], weight: Tensor
    ) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.refill`: that of the first method, its values packed by the next."""
        shape = tuple(weight.shape)
        before = self._unpacked(tensors, shape)
        return self._then(*self.first.refill(before, weight), shape)

    def _then(
        self, first: Method, tensors: dict[str, Tensor], shape: Shape
    ) -> tuple[Method, dict[str, Tensor]]:
        """What the first method stores, its inner slots packed by the methods that follow."""
        then: dict[str, Method] = {}
        for slot, matrix in first.inner(shape).items():
            with naming(slot):
                packed = self._after(slot).compress(filled(tensors.pop(slot).float(), matrix))
            then[slot] = packed.method
            tensors |= {joined(slot, name): tensor for name, tensor in packed.state().items()}
        if len(set(then.values())) == 1:  # one entry in the file's header
            then = {_ALL: next(iter(then.values()))}
        resolved = Chain(first, then)
        return resolved, {name: tensors[name] for name in resolved.layout(shape)}

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        return self.first.decode(self._unpacked(tensors, shape), shape)

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """As the first method does it, on decoded slots."""
        return self.first.linear(x, self._unpacked(tensors, shape), shape)

    def opened(self, tensors: Mapping[str, Tensor], shape: Shape) -> Opened:
        """See :meth:`Method.opened`: the first method, on decoded slots."""
        return self.first.opened(self._unpacked(tensors, shape), shape)

    def _unpacked(self, tensors: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
        """The tensors of the first method, its inner slots in float32."""
        whole = self.first.layout(shape)
        found = {name: tensor for name, tensor in tensors.items() if name in whole}
        for slot, packed in self.slots(tensors, shape).items():
            values = packed.dense().flatten()
            found[slot] = values[: math.prod(whole[slot].shape)].view(whole[slot].shape)
        return found

    def slots(self, tensors: Mapping[str, Tensor], shape: Shape) -> dict[str, CompressedWeight]:
        """Each inner slot of the first method as the method after it packs it."""
        return {
            slot: CompressedWeight(self._after(slot), matrix, self._stored(tensors, slot, matrix))
            for slot, matrix in self.first.inner(shape).items()
        }

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        inner, found = self.first.inner(shape), dict[str, Slot]()
        for slot, spec in self.first.layout(shape).items():
            if slot not in inner:
                found[slot] = spec
                continue
            deeper = self._after(slot).layout(inner[slot])
            found |= {joined(slot, name): own for name, own in deeper.items()}
        return found

    def nominal_bits(self, shape: Shape) -> int:
        """Those of the first method, each inner slot counted as its method counts it."""
        whole, inner = self.first.layout(shape), self.first.inner(shape)
        bits = self.first.nominal_bits(shape)
        before = sum(8 * whole[slot].nbytes for slot in inner)
        after = sum(self._after(slot).nominal_bits(matrix) for slot, matrix in inner.items())
        # A count pro rata (tiles cut at the edge) can be below what is stored.
        return max(bits - before, 0) + after

    def macs(self, shape: Shape) -> int:
        """Those of the first method."""
        return self.first.macs(shape)


def chain(methods: Sequence[Method]) -> Method:
    """Methods one after another as one: the method itself, if there is one only.

    Raises:
        InvalidSetting: two neighbours do not fit; see :class:`Chain`.
    """
    first, *rest = methods
    return Chain(first, {_ALL: chain(rest)}) if rest else first


def split(method: Method) -> tuple[list[Method], Method]:
    """The links at the head that change the structure, and the rest as one: none, if there is none.

    Each link looks at what those before it left.
    """
    structural: list[Method] = []
    while isinstance(method, Chain) and method.first.structural:
        structural.append(method.first)
        method = method._after()
    return (structural, method) if not method.structural else ([*structural, method], NoMethod())


def method_to_json(method: Method) -> list[Any]:
    """Name and settings; of a chain ``["+", first, {slot: next}]``."""
    if isinstance(method, Chain):
        then = {slot: method_to_json(inner) for slot, inner in method.then.items()}
        return ["+", method_to_json(method.first), then]
    return [method.name, method.args()] if method.args() else [method.name]


def method_from_json(data: Sequence[Any]) -> Method:
    """The inverse of :func:`method_to_json`.

    Raises:
        UnknownName, InvalidSetting: as the registry says.
    """
    if data[0] != "+":
        return METHODS.build(*data)
    _, first, then = data
    return Chain(method_from_json(first), {k: method_from_json(m) for k, m in then.items()})


def _names(method: Method) -> Iterator[str]:
    if not isinstance(method, Chain):
        yield method.name
        return
    yield method.first.name
    yield from dict.fromkeys("+".join(_names(inner)) for inner in method.then.values())
