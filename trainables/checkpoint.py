"""Training state as tensors and JSON: nested containers flattened to one dict of tensors.

As bytes it carries the hash of itself: a state that is damaged is refused, never gone on from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from trainables.serial import parse_json

_TENSOR = "$tensor"
_SEAL = b"paretune-seal:"
_OPEN = _SEAL + b"0" * 64  # stands where the hash is put
_SEALED = re.compile(re.escape(_SEAL) + rb"[0-9a-f]{64}")


class CheckpointError(ValueError):
    """A state that cannot be gone on from; the message says why."""


@dataclass(frozen=True)
class State:
    """Tensors by name, and a JSON tree that refers to them. Holds no code and no pickles."""

    tensors: Mapping[str, Tensor]
    tree: Any

    def to_bytes(self) -> bytes:
        """One safetensors file with the tree in its header, and the file's SHA-256."""
        tensors = {k: v.contiguous() for k, v in self.tensors.items()}
        # One entry: of several safetensors writes now this, now that first.
        about = json.dumps({"seal": _OPEN.decode(), "tree": self.tree})
        data = safetensors.torch.save(tensors, {"state": about})
        return data.replace(_OPEN, _seal(data), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """The inverse of :meth:`to_bytes`.

        Raises:
            CheckpointError: they are no checkpoint, or a bit of it is another than as written.
        """
        found = _SEALED.search(data)
        if found is None:
            raise CheckpointError("is damaged, or no checkpoint: it has no checksum")
        if found[0] != _seal(data[: found.start()] + _OPEN + data[found.end() :]):
            raise CheckpointError("is damaged: its checksum does not fit")
        try:
            tensors = safetensors.torch.load(data)
            header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = parse_json(header["__metadata__"]["state"], finite=False)
            return cls(tensors, about["tree"])
        except (SafetensorError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"is damaged, or no checkpoint: {error}") from error


def _seal(data: bytes) -> bytes:
    return _SEAL + hashlib.sha256(data).hexdigest().encode()


def refill(tensor: Tensor, saved: Tensor) -> None:
    """Copy what was saved into a tensor, in place, without spreading it over another shape.

    Raises:
        CheckpointError: the shapes differ.
    """
    if tensor.shape != saved.shape:
        has, wanted = tuple(saved.shape), tuple(tensor.shape)
        raise CheckpointError(f"has a tensor of shape {has} where the model has {wanted}")
    tensor.copy_(saved)


def flatten(value: Any) -> State:
    """Split nested dicts, lists, scalars and tensors into a :class:`State`.

    Integer keys, which torch's optimizers use, are kept by marking them.

    Raises:
        TypeError: a leaf is neither a tensor nor a JSON scalar.
    """
    tensors: dict[str, Tensor] = {}

    def walk(item: Any, path: str) -> Any:
        if isinstance(item, Tensor):
            name = f"{len(tensors)}{path}"  # numbered, since paths can read alike
            tensors[name] = item.detach().clone()
            return {_TENSOR: name}
        if isinstance(item, Mapping):
            return {
                f"#{k}" if isinstance(k, int) else f".{k}": walk(v, f"{path}/{k}")
                for k, v in item.items()
            }
        if isinstance(item, list | tuple):
            return [walk(v, f"{path}/{i}") for i, v in enumerate(item)]
        if item is None or isinstance(item, bool | int | float | str):
            return item
        raise TypeError(f"{path}: {type(item).__name__} can't be stored in a checkpoint")

    tree = walk(value, "")
    return State(tensors, tree)


def unflatten(state: State) -> Any:
    """The inverse of :func:`flatten`, tuples as lists.

    Raises:
        CheckpointError: the tree names a tensor that is not there, or is none of :func:`flatten`'s.
    """

    def walk(item: Any) -> Any:
        if isinstance(item, dict):
            if _TENSOR in item:
                return state.tensors[item[_TENSOR]]
            return {int(k[1:]) if k[0] == "#" else k[1:]: walk(v) for k, v in item.items()}
        return [walk(v) for v in item] if isinstance(item, list) else item

    try:
        return walk(state.tree)
    except (LookupError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"a damaged checkpoint: {error!r}") from error
