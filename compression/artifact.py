"""The saved model: one safetensors file with a checksummed header, no pickle anywhere.

The file holds every tensor of the model under its dense name (``layer.bias``), packed weights as
``layer.slot`` and adapters as ``layer.suffix``. One metadata entry holds compact JSON: schema,
checksum, structure edits and the layer table, these by registry names. The checksum is the SHA-256
of the whole file with its own 64 digits read as zeros, so no byte can change unseen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compression.adapters import Adapter
from compression.container import ArtifactError, Header, pack_file, read_bytes, unpack_file
from compression.kinds import bare, kind_of
from compression.layers import install
from compression.methods import NoMethod
from compression.methods.base import CompressedWeight
from compression.nested import fit
from compression.packed_layers import keep_packed as pack_layers
from compression.registry import InvalidSetting, naming
from compression.rules import Compression, LayerEntry, shapes
from compression.stored import as_shipped, dense_name, identity, packed_slots, stored_tensors

__all__ = ["ArtifactError", "Header", "deserialize", "load", "read_header", "save", "serialize"]

# Of settings that do not suit the shape, and of values that settings rule out.
_UNSUITED = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


def serialize(model: nn.Module, about: Mapping[str, str] | None = None) -> bytes:
    """The file of a model, dense or compressed. Equal models give equal bytes.

    Args:
        model: its class and code are not stored; loading needs them.
        about: remarks to keep in the header.

    Raises:
        ArtifactError: the model computes with other values than the file would hold.
    """
    tensors = {name: stored.tensor for name, stored in stored_tensors(model).items()}
    return pack_file(tensors, as_shipped(model), about or {})


def save(
    model: nn.Module,
    path: str,
    about: Mapping[str, str] | None = None,
    filesystem: Any = None,
) -> str:
    """Write :func:`serialize` to ``path``, aside first and then moved, and give its SHA-256.

    Args:
        model: dense or compressed.
        path: on this machine, or within ``filesystem``.
        about: remarks to keep in the header.
        filesystem: a ``pyarrow.fs.FileSystem``.
    """
    data = serialize(model, about)
    aside = f"{path}.part"
    if filesystem is None:
        with open(aside, "wb") as file:
            file.write(data)
        os.replace(aside, path)
    else:
        with filesystem.open_output_stream(aside) as stream:
            stream.write(data)
        filesystem.move(aside, path)
    return hashlib.sha256(data).hexdigest()


def load(
    path: str,
    model: nn.Module,
    filesystem: Any = None,
    max_bytes: int | None = None,
    keep_packed: bool = False,
) -> nn.Module:
    """Read a saved model into its freshly built dense architecture.

    Args:
        path: on this machine, or within ``filesystem``.
        model: the architecture; changed in place.
        filesystem: a ``pyarrow.fs.FileSystem``.
        max_bytes: of the model as it would be saved: the best one inside the file that has no more,
            see :mod:`compression.nested`.
        keep_packed: compute with packed weights and keep no dense one of a compressed layer: less
            memory, the same numbers up to the order of sums; see :mod:`compression.packed_layers`.

    Returns:
        ``model`` with the file's values, in eval mode, nothing trainable.

    Raises:
        ArtifactError: the file is cut, changed, foreign or too new, or of another architecture, or
            there is no model of ``max_bytes`` inside.
        FileNotFoundError: no such file.
    """
    return deserialize(read_bytes(path, filesystem), model, path, max_bytes, keep_packed)


def read_header(path: str, filesystem: Any = None) -> Header:
    """What was done to the model in a file, which is checked whole.

    Raises:
        ArtifactError: as :func:`load`, but for the architecture.
        FileNotFoundError: no such file.
    """
    return unpack_file(read_bytes(path, filesystem), path)[0]


@torch.no_grad()
def deserialize(
    data: bytes,
    model: nn.Module,
    source: str = "artifact",
    max_bytes: int | None = None,
    keep_packed: bool = False,
) -> nn.Module:
    """:func:`load` from bytes; ``source`` names them in errors."""
    header, tensors = unpack_file(data, source)
    done = header.compression
    try:
        for index, edit in enumerate(done.edits):
            with naming(f"edits[{index}]"):
                edit.apply(model)
        if max_bytes is not None:
            shapes_of = _weight_shapes(model, done)
            _check_slots(done, shapes_of, tensors)
            header, tensors = fit(header, tensors, shapes_of, max_bytes)
            done = header.compression
        for name, entry in done.layers.items():
            _install(model, name, entry, tensors)
        for adapter, entries in done.adapted().items():
            _seat(model, adapter, entries, tensors)
        _fill(model, done, tensors)
        model.compression = done  # type: ignore[assignment]
        if keep_packed:
            pack_layers(model)
    except (InvalidSetting, ArtifactError) as error:
        raise ArtifactError(f"{source}: {error}") from error
    return model.requires_grad_(False).eval()


def _fits_in(tensor: Tensor, live: Tensor) -> bool:
    try:
        return torch.promote_types(tensor.dtype, live.dtype) == live.dtype
    except RuntimeError:  # torch promotes no wide unsigned integers
        return False


def _weight_shapes(model: nn.Module, done: Compression) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of the layers that the architecture has."""
    layers = {name: bare(module) for name, module in model.named_modules() if name in done.layers}
    return {name: tuple(layer.weight.shape) for name, layer in layers.items() if kind_of(layer)}


def _install(model: nn.Module, name: str, entry: LayerEntry, tensors: dict[str, Tensor]) -> None:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise ArtifactError(f"layer '{name}' is not in this {type(model).__name__}") from None
    if kind_of(bare(layer)) is None:
        raise ArtifactError(f"layer '{name}' is a {type(layer).__name__} in this model")
    if isinstance(entry.method, NoMethod):
        return
    shape = tuple(bare(layer).weight.shape)
    try:
        slots = entry.method.layout(shape)
        packed = {k: _take(tensors, f"{name}.{k}", s.dtype, s.shape) for k, s in slots.items()}
        install(layer, CompressedWeight(entry.method, shape, packed))
    except ArtifactError:
        raise
    except _UNSUITED as error:
        raise ArtifactError(f"layer '{name}': {entry.method.name}: {error}") from error


def _seat(
    model: nn.Module,
    adapter: Adapter,
    entries: Mapping[str, LayerEntry],
    tensors: dict[str, Tensor],
) -> None:
    """Put an adapter on its layers, with its tensors."""
    _check_seats(model, adapter, entries)
    try:
        slots = adapter.layout(shapes(model, entries))
        live = {key: _take(tensors, key, slot.dtype, slot.shape) for key, slot in slots.items()}
        ranks = {name: (entry.rank, entry.alpha) for name, entry in entries.items()}
        adapter.restore(model, ranks, live)
    except (ArtifactError, InvalidSetting):
        raise
    except _UNSUITED as error:
        raise ArtifactError(f"adapter {adapter.name}: {error}") from error


def _check_slots(
    done: Compression, shapes_of: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> None:
    """Refuse packed tensors that the architecture's layers do not have just so."""
    copied = dict(tensors)
    for name, entry in done.layers.items():
        if name not in shapes_of:
            raise ArtifactError(f"layer '{name}' is not in this model")
        if not isinstance(entry.method, NoMethod):
            for key, slot in entry.method.layout(shapes_of[name]).items():
                _take(copied, f"{name}.{key}", slot.dtype, slot.shape)


def _check_seats(model: nn.Module, adapter: Adapter, entries: Mapping[str, LayerEntry]) -> None:
    """Refuse an architecture whose layers the adapter cannot sit on."""
    errors = [
        text
        for name, entry in entries.items()
        for text in adapter.refusals({name: model.get_submodule(name)}, entry.rank)
    ]
    if errors:
        raise InvalidSetting(errors)


def _take(
    tensors: dict[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> Tensor:
    if name not in tensors:
        raise ArtifactError(f"tensor '{name}' is missing")
    found = tensors.pop(name)
    if (found.dtype, tuple(found.shape)) != (dtype, tuple(shape)):
        raise ArtifactError(
            f"tensor '{name}' is {found.dtype} {tuple(found.shape)}, "
            f"this model needs {dtype} {tuple(shape)}"
        )
    return found


def _fill(model: nn.Module, done: Compression, tensors: dict[str, Tensor]) -> None:
    """Copy in what neither methods nor adapters took, and account for every name."""
    packed = packed_slots(model, done.layers)
    filled = set()
    missing = []
    for key, live in model.state_dict().items():
        name = dense_name(key, done)
        if name is None or name in packed:
            continue
        if name in tensors:
            dtype = tensors[name].dtype if _fits_in(tensors[name], live) else live.dtype
            live.copy_(_take(tensors, name, dtype, tuple(live.shape)))
            filled.add(identity(live))
        elif identity(live) not in filled:
            missing.append(name)
    if missing or tensors:
        parts = [f"tensors missing: {', '.join(missing)}"] if missing else []
        parts += [f"tensors unknown to this model: {', '.join(tensors)}"] if tensors else []
        raise ArtifactError("; ".join(parts))
