"""The file format of saved models: safetensors with one checksummed metadata entry."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

from compression.adapters import ADAPTERS, NoAdapter
from compression.edits import EDITS, Edit
from compression.methods import METHODS, NoMethod
from compression.methods.chain import method_from_json, method_to_json
from compression.registry import InvalidSetting, Plugin, naming
from compression.rules import Compression, LayerEntry

RESERVED = "__metadata__"
SCHEMA = 1
HEADER_BYTES = 8_000_000
_ENTRY = "paretune"
_BLANK = "0" * 64
# Safetensors' names of dtypes, in its own order.
_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
# How the checksum looks in the file, where it is JSON inside a JSON string.
_CHECKSUM = re.compile(rb'\{\\"sha256\\":\\"([0-9a-f]{64})\\"')


class ArtifactError(ValueError):
    """A file that is not a whole, unchanged model of this format and architecture."""


class Header(NamedTuple):
    """What a file says of itself: what was done to the model, and remarks."""

    compression: Compression
    about: Mapping[str, str]


def read_bytes(path: str, filesystem: Any = None) -> bytes:
    """A whole file, on this machine or within a ``pyarrow.fs.FileSystem``.

    Raises:
        FileNotFoundError: no such file.
    """
    if filesystem is None:
        with open(path, "rb") as file:
            return file.read()
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())


def pack_file(tensors: Mapping[str, Tensor], done: Compression, about: Mapping[str, str]) -> bytes:
    """The bytes of a file, checksum filled in.

    Raises:
        ArtifactError: a tensor has the name that safetensors keeps for its own metadata.
    """
    if RESERVED in tensors:
        raise ArtifactError(f"a tensor is named '{RESERVED}', which safetensors keeps for itself")
    entry = json.dumps(_to_json(done, about), separators=(",", ":"))
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = bytearray(write_tensors(on_cpu, {_ENTRY: entry}))
    data[_checksum_span(data)] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def file_bytes(tensors: Mapping[str, Tensor], done: Compression, about: Mapping[str, str]) -> int:
    """Length of what :func:`pack_file` gives, without making it.

    Safetensors writes 8 bytes of length, a JSON header filled up with spaces to a multiple of 8,
    and the tensors one after the other, wide dtypes first, then by name.
    """
    entry = json.dumps(_to_json(done, about), separators=(",", ":"))
    header: dict[str, Any] = {RESERVED: {_ENTRY: entry}}
    offset = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (_rank(item[1]), item[0])):
        end = offset + tensor.nbytes
        kind = _DTYPES[tensor.dtype]
        shape = list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + offset


def _rank(tensor: Tensor) -> int:
    return -list(_DTYPES).index(tensor.dtype)


def unpack_file(data: bytes, source: str) -> tuple[Header, dict[str, Tensor]]:
    """Check a file and take it apart.

    Raises:
        ArtifactError: it is cut, changed, foreign, too new, or needs a plugin that is not here.
    """
    try:
        text = _metadata(data)
        entry = json.loads(text)
        _check_schema(entry)
        _check_sum(data)
        return _from_json(entry), _tensors(data)
    except (ArtifactError, InvalidSetting) as error:
        raise ArtifactError(f"{source}: {error}") from error
    except RecursionError:
        raise ArtifactError(f"{source}: damaged: its header is nested too deeply") from None
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{source}: damaged, or no safetensors file ({error})") from error


def _tensors(data: bytes) -> dict[str, Tensor]:
    found = read_tensors(data)
    if strange := [name for name, tensor in found.items() if tensor.dtype not in _DTYPES]:
        raise ArtifactError(f"tensors of a kind that no model has: {', '.join(strange)[:200]}")
    return found


def _metadata(data: bytes) -> str:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise ArtifactError(f"cut short at {len(data)} bytes, or no safetensors file")
    if size > HEADER_BYTES:  # read into objects it would take many times as much memory
        raise ArtifactError(f"a header of {size} bytes; no more than {HEADER_BYTES} are read")
    entries = json.loads(data[8 : 8 + size]).get(RESERVED, {})
    if _ENTRY not in entries:
        raise ArtifactError("a safetensors file, but not one written by paretune")
    return str(entries[_ENTRY])


def _check_schema(entry: Mapping[str, Any]) -> None:
    schema = entry["schema"]
    if schema != SCHEMA:
        raise ArtifactError(f"schema {schema}; this version reads schema {SCHEMA}: update paretune")


def _checksum_span(data: bytes | bytearray) -> slice:
    found = _CHECKSUM.search(data)
    if not found:
        raise ArtifactError("sha256: no checksum in the header")
    return slice(*found.span(1))


def _check_sum(data: bytes) -> None:
    at = _checksum_span(data)
    view, sum_ = memoryview(data), hashlib.sha256()
    for part in (view[: at.start], _BLANK.encode(), view[at.stop :]):
        sum_.update(part)
    if sum_.hexdigest().encode() != data[at]:
        raise ArtifactError("sha256: the file has changed since it was written, or is cut short")


def _to_json(done: Compression, about: Mapping[str, str]) -> dict[str, Any]:
    """The header's JSON, layers of one kind together, without what is empty."""
    specs: dict[LayerEntry, list[str]] = {}
    for name, entry in done.layers.items():
        specs.setdefault(entry, []).append(name)
    optional = {
        "edits": [_plugin_to_json(edit) for edit in done.edits],
        "specs": [_spec_to_json(entry, names) for entry, names in specs.items()],
        "rest": None if isinstance(done.rest, NoMethod) else _plugin_to_json(done.rest),
        "about": dict(sorted(about.items())),
    }
    return {"sha256": _BLANK, "schema": SCHEMA} | {k: v for k, v in optional.items() if v}


def _spec_to_json(entry: LayerEntry, names: list[str]) -> dict[str, Any]:
    spec: dict[str, Any] = {"layers": names, "method": method_to_json(entry.method)}
    if entry.adapted:
        spec |= {"adapter": _plugin_to_json(entry.adapter)}
        spec |= {"rank": entry.rank} if entry.adapter.ranked else {}
        spec |= {"alpha": entry.alpha} if entry.adapter.scaled else {}
    return spec


def _plugin_to_json(plugin: Plugin) -> list[Any]:
    return [plugin.name, plugin.args()] if plugin.args() else [plugin.name]


def _from_json(entry: Mapping[str, Any]) -> Header:
    if unknown := set(entry) - {"sha256", "schema", "edits", "specs", "rest", "about"}:
        raise ArtifactError(f"unknown header fields: {', '.join(sorted(unknown))}")
    layers: dict[str, LayerEntry] = {}
    for spec in entry.get("specs", []):
        method = method_from_json(spec["method"])
        adapter = ADAPTERS.build(*spec["adapter"]) if "adapter" in spec else NoAdapter()
        rank, alpha = spec.get("rank", 0), spec.get("alpha", 0.0)
        numbers = type(rank) is int and rank >= 0 and type(alpha) in (int, float)
        numbers = numbers and math.isfinite(alpha)
        if not numbers or not all(isinstance(name, str) for name in spec["layers"]):
            raise ArtifactError("ranks, alphas or names of layers are of a wrong type or sign")
        layers |= dict.fromkeys(spec["layers"], LayerEntry(method, adapter, rank, alpha))
    rest = METHODS.build(*entry.get("rest", ["none"]))
    edits = tuple(_edit_from_json(i, edit) for i, edit in enumerate(entry.get("edits", [])))
    about = entry.get("about", {})
    if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
        raise ArtifactError("'about' is not text by name")
    return Header(Compression(layers, rest, edits), about)


def _edit_from_json(index: int, edit: list[Any]) -> Edit:
    with naming(f"edits[{index}]"):
        return EDITS.build(*edit)
