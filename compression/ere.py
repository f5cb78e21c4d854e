"""A fine-tuned model stored as what differs from a model that everyone has.

>>> import torch
>>> from compression.ere import ere_delta, load_delta, restored, save_delta
>>> from compression.methods import METHODS, chain
>>> base = torch.nn.Linear(64, 32).state_dict()
>>> tuned = {name: value + 0.01 * torch.randn_like(value) for name, value in base.items()}
>>> method = chain([METHODS.build("svd", {"rank": 4}), METHODS.build("rtn", {"bits": 8})])
>>> delta = ere_delta(tuned, base, method)
>>> delta.stored_bytes()  # factors of 4 x 96 bytes, 36 scales of float16; the bias, 32 float32
584
>>> path = save_delta(delta, "tuned.delta")
>>> again = restored(base, load_delta("tuned.delta", base))
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compression.container import ArtifactError, pack_file, unpack_file
from compression.methods import Method, NoMethod
from compression.methods.base import CompressedWeight
from compression.registry import InvalidSetting
from compression.rules import Compression, LayerEntry

_BASE = "base"
_MARK = "change of "  # before names in a file, so that no model can take it for its layers

CATALOGUE_ID = "001-36"


@dataclass(frozen=True)
class Delta:
    """The packed change of each weight, and which base it is a change of.

    Its bytes are the change alone. That is honest only where the base is there already, under a
    name that both sides know: :func:`restored` refuses any other. No method of this package stores
    less than what a weight needs by itself, because a loaded model starts from an untrained
    architecture; so this is no registered method, and no file that ``compression.load`` takes.

    Source: Ryu et al., Efficient Storage of Fine-Tuned Models via Low-Rank Approximation of Weight
    Residuals, arXiv 2305.18425; catalogue 001-36.
    """

    changes: Mapping[str, CompressedWeight]
    base: str

    def stored_bytes(self) -> int:
        """Bytes of all packed changes; the base not counted."""
        return sum(change.stored_bytes() for change in self.changes.values())


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def ere_delta(tuned: Mapping[str, Tensor], base: Mapping[str, Tensor], method: Method) -> Delta:
    """``method`` of ``W_tuned - W_base`` for each weight; of vectors all of it, in float32.

    With ``svd_cascade`` or a chain of ``svd`` and ``rtn`` this is ERE: the error before rounding is
    what the singular values of the change beyond the rank hold.

    Raises:
        InvalidSetting: names or shapes differ.
    """
    if wrong := [name for name in {**tuned, **base} if _shape(tuned, name) != _shape(base, name)]:
        raise InvalidSetting(f"'{name}' is another weight in the base" for name in wrong)
    changes = {name: (tuned[name] - base[name]).detach() for name in tuned}
    packed = {
        name: (method if change.ndim > 1 else NoMethod()).compress(change)
        for name, change in changes.items()
    }
    return Delta(packed, fingerprint(base))


def restored(base: Mapping[str, Tensor], delta: Delta) -> dict[str, Tensor]:
    """``W_base`` plus the change, by name, in the dtypes of the base.

    Raises:
        InvalidSetting: the base is not the one that the change was taken from.
    """
    if fingerprint(base) != delta.base:
        raise InvalidSetting(["the base is not the one that this change was taken from"])
    return {
        name: (base[name] + change.dense()).to(base[name].dtype)
        for name, change in delta.changes.items()
    }


def save_delta(delta: Delta, path: str) -> str:
    """Write the changes and the base's fingerprint as one file, aside first; its SHA-256."""
    tensors = {
        f"{_MARK}{name}.{slot}": tensor
        for name, change in delta.changes.items()
        for slot, tensor in change.state().items()
    }
    entries = {f"{_MARK}{name}": LayerEntry(c.method) for name, c in delta.changes.items()}
    data = pack_file(tensors, Compression(entries), {_BASE: delta.base})
    aside = f"{path}.part"
    with open(aside, "wb") as file:
        file.write(data)
    os.replace(aside, path)
    return hashlib.sha256(data).hexdigest()


def load_delta(path: str, base: Mapping[str, Tensor]) -> Delta:
    """Read what :func:`save_delta` wrote; shapes are those of the base.

    Raises:
        ArtifactError: the file is cut, changed, or no change of weights.
        InvalidSetting: it is a change of another base.
        FileNotFoundError: no such file.
    """
    with open(path, "rb") as file:
        header, tensors = unpack_file(file.read(), path)
    layers = header.compression.layers
    if _BASE not in header.about or not all(name.startswith(_MARK) for name in layers):
        raise ArtifactError(f"{path}: a model, and no change of weights; compression.load reads it")
    if fingerprint(base) != header.about[_BASE]:
        raise InvalidSetting([f"{path}: a change of another base than this one"])
    changes = {}
    for marked, entry in layers.items():
        name = marked.removeprefix(_MARK)
        slots = [key for key in tensors if key.rpartition(".")[0] == marked]
        own = {key.rpartition(".")[2]: tensors[key] for key in slots}
        try:
            changes[name] = CompressedWeight(entry.method, tuple(base[name].shape), own)
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: '{name}': {error}") from error
    return Delta(changes, header.about[_BASE])


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
