"""A saved model taken apart by layer, without its architecture: what the file alone tells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from compression.container import ArtifactError, Header, read_bytes, unpack_file
from compression.found_shape import PROBES, Form, fits, found_shape, tried
from compression.methods import Method, NoMethod
from compression.methods.base import Part, Shape, matrix_shape
from compression.rules import LayerEntry

UNTOUCHED = LayerEntry(NoMethod())


class Held(NamedTuple):
    """A tensor of the file, and the part of the bytes that it counts under."""

    tensor: Tensor
    part: Part


@dataclass(frozen=True)
class Layer:
    """What a file holds of one layer: packed tensors, bias and adapter, by name within the layer.

    ``shape`` is that of the dense weight, (m, n) of ``W.flatten(1)`` where only that is known, None
    where the file does not tell it.
    """

    name: str
    entry: LayerEntry
    shape: Shape | None
    held: Mapping[str, Held]

    @property
    def packed(self) -> dict[str, Tensor]:
        """The tensors of the method, by slot; none where the weight is as it was."""
        if isinstance(self.entry.method, NoMethod):
            return {}
        slots = slots_of(self.entry.method, self.shape)
        return {slot: self.held[slot].tensor for slot in slots}

    @property
    def adapter(self) -> dict[str, Tensor]:
        """The tensors of the adapter, by suffix."""
        return {name: held.tensor for name, held in self.held.items() if held.part == "adapter"}

    def nbytes(self, *parts: Part) -> int:
        """Bytes of some parts, or of all."""
        return sum(t.nbytes for t, part in self.held.values() if not parts or part in parts)

    def weight(self) -> Tensor | None:
        """The weight that is stored, decoded, float32; None where its shape is unknown."""
        if self.shape is None:
            return None
        if isinstance(self.entry.method, NoMethod):
            return self.held["weight"].tensor.float()
        return self.entry.method.decode(self.packed, self.shape)

    def delta(self) -> Tensor | None:
        """What an additive adapter adds to the weight, (m, n), at the scale that is saved.

        Computed by the adapter itself, on a layer made for it. None without such an adapter, or
        where it shares tensors with other layers.
        """
        entry, shape = self.entry, self.shape
        if not entry.adapted or not entry.adapter.additive or shape is None:
            return None
        rows, columns = matrix_shape(shape)
        own = {f"layer.{name}": tensor for name, tensor in self.adapter.items()}
        if own.keys() != entry.adapter.layout({"layer": ((rows, columns), entry.rank)}).keys():
            return None
        alone = nn.ModuleDict({"layer": nn.Linear(columns, rows, bias=False)})
        entry.adapter.restore(alone, {"layer": (entry.rank, entry.alpha)}, own)
        return entry.adapter.delta(alone, "layer").detach()


@dataclass(frozen=True)
class Opened:
    """A file: its header, its layers by name, and all tensors of other modules.

    Layers are those of the header and all other modules with a weight of two dimensions and more.
    """

    source: str
    length: int
    header: Header
    layers: Mapping[str, Layer]
    others: Mapping[str, Tensor]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their names in the file."""
        held = (
            (f"{layer.name}.{name}", one.tensor)
            for layer in self.layers.values()
            for name, one in layer.held.items()
        )
        return dict(held) | dict(self.others)

    @property
    def parts(self) -> dict[Part, int]:
        """Bytes by part; they add up to the length of the file."""
        held = [held for layer in self.layers.values() for held in layer.held.values()]
        held += [Held(tensor, "untouched") for tensor in self.others.values()]
        found: dict[Part, int] = {}
        for tensor, part in held:
            found[part] = found.get(part, 0) + tensor.nbytes
        return found | {"header": self.length - sum(found.values())}


def open_file(path: str, dense: Opened | None = None, filesystem: Any = None) -> Opened:
    """Take a saved model apart.

    Args:
        path: on this machine, or within ``filesystem``.
        dense: the file of the dense model, where there is one: it tells all shapes.
        filesystem: a ``pyarrow.fs.FileSystem``.

    Raises:
        ArtifactError: the file is cut, changed, foreign or too new, or not of that dense model.
        FileNotFoundError: no such file.
    """
    data = read_bytes(path, filesystem)
    header, tensors = unpack_file(data, path)
    entries = header.compression.layers
    by_layer, others = _by_layer(tensors, entries)
    found, errors = {}, []
    for name in sorted(by_layer, key=_natural):
        try:
            known = None if dense is None else _known(name, dense, header)
            found[name] = _layer(name, entries.get(name, UNTOUCHED), by_layer[name], known)
            if known is not None and not header.compression.edits:
                _check_shape(found[name], known)
        except ArtifactError as error:
            errors.append(str(error))
    if errors:
        raise ArtifactError(f"{path}: " + f"\n{path}: ".join(errors))
    return Opened(path, len(data), header, found, others)


def slots_of(method: Method, shape: Shape | None) -> dict[str, Part]:
    """Its packed tensors and the parts they count under, which are the same for every shape."""
    for tried_shape in (shape, *PROBES, (64, 64, 3, 3)):
        if tried_shape is not None and (layout := tried(method.layout, tried_shape)) is not None:
            return {name: slot.part for name, slot in layout.items()}
    raise ArtifactError(f"{method.name}: settings that suit no shape")


def _by_layer(
    tensors: Mapping[str, Tensor], entries: Iterable[str]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of each layer by their names within it, and all the others."""
    found: dict[str, dict[str, Tensor]] = {name: {} for name in entries}
    matrices = (n for n, tensor in tensors.items() if n.endswith(".weight") and tensor.ndim > 1)
    found |= {n.removesuffix(".weight"): {} for n in matrices if not _layer_of(n, found)}
    others = {}
    for name, tensor in tensors.items():
        if layer := _layer_of(name, found):
            found[layer][name.removeprefix(f"{layer}.")] = tensor
        else:
            others[name] = tensor
    return found, others


def _layer_of(name: str, layers: Mapping[str, object]) -> str:
    """The layer that a tensor is in: the longest name that it begins with; empty if none."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
    return next((prefix for prefix in prefixes if prefix in layers), "")


def _known(name: str, dense: Opened, header: Header) -> Shape | None:
    """The layer's shape in the dense file, which structure edits may have changed since."""
    if name in dense.layers:
        return dense.layers[name].shape
    if not header.compression.edits:
        raise ArtifactError(f"layer '{name}' is not in {dense.source}: another architecture")
    return None


def _check_shape(layer: Layer, known: Shape) -> None:
    if layer.shape is None or matrix_shape(layer.shape) != matrix_shape(known):
        size = "x".join(map(str, known))
        raise ArtifactError(f"layer '{layer.name}' is no layer of {size}: another architecture")


def _layer(
    name: str, entry: LayerEntry, tensors: Mapping[str, Tensor], known: Shape | None
) -> Layer:
    method = entry.method
    forms: dict[str, Form] = {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()}
    if isinstance(method, NoMethod):
        shape = forms["weight"][1] if "weight" in forms else None
        base: dict[str, Part] = {"weight": "base" if entry is not UNTOUCHED else "untouched"}
    else:
        given = known if known and fits(method, known, forms) else None
        shape = given or found_shape(method, forms, entry.adapter, entry.rank)
        base = slots_of(method, shape)
        if missing := base.keys() - forms.keys():
            raise ArtifactError(f"layer '{name}': tensors missing: {', '.join(sorted(missing))}")
    base["bias"] = "untouched"
    held = {n: Held(t, base.get(n, "adapter")) for n, t in tensors.items()}
    return Layer(name, entry, shape, held)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key under which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
