"""Training state as tensors and JSON: nested containers flattened to one dict of tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from trainables.serial import parse_json

_TENSOR = "$tensor"


class CheckpointError(ValueError):
    """Bytes that are no checkpoint, or a damaged one."""


@dataclass(frozen=True)
class State:
    """Tensors by name, and a JSON tree that refers to them. Holds no code and no pickles."""

    tensors: Mapping[str, Tensor]
    tree: Any

    def to_bytes(self) -> bytes:
        """One safetensors file with the tree in its header."""
        tensors = {k: v.contiguous() for k, v in self.tensors.items()}
        return safetensors.torch.save(tensors, {"tree": json.dumps(self.tree)})

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """The inverse of :meth:`to_bytes`.

        Raises:
            CheckpointError: they are no checkpoint, or a damaged one.
        """
        try:
            tensors = safetensors.torch.load(data)
            header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
            return cls(tensors, parse_json(header["__metadata__"]["tree"], finite=False))
        except (SafetensorError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"a damaged checkpoint, or none: {error}") from error


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
