"""A fine-tuned model stored as what differs from a model that everyone has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from compression.methods import Method
from compression.methods.base import CompressedWeight
from compression.registry import InvalidSetting


@dataclass(frozen=True)
class Delta:
    """The packed change of each weight, and which base it is a change of.

    Its bytes are the change alone. That is honest only where the base is there already, under a
    name that both sides know: :func:`restored` refuses any other. No method of this package stores
    less than what a weight needs by itself, because a loaded model starts from an untrained
    architecture; so this is no method, and no file that ``load`` takes.

    Source: Ryu et al., Efficient Storage of Fine-Tuned Models via Low-Rank Approximation of Weight
    Residuals, arXiv 2305.18425; catalogue 001-36.
    """

    changes: Mapping[str, CompressedWeight]
    base: str

    def stored_bytes(self) -> int:
        """Bytes of all packed changes; the base not counted."""
        return sum(change.stored_bytes() for change in self.changes.values())


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.float().numpy().tobytes())
    return found.hexdigest()


def ere_delta(tuned: Mapping[str, Tensor], base: Mapping[str, Tensor], method: Method) -> Delta:
    """``method`` of ``W_tuned - W_base``, for each weight.

    With ``svd_cascade`` or a chain of ``svd`` and ``rtn`` this is ERE: the error before rounding is
    what the singular values of the change beyond the rank hold.

    Raises:
        InvalidSetting: names or shapes differ.
    """
    if wrong := [name for name in {**tuned, **base} if _shape(tuned, name) != _shape(base, name)]:
        raise InvalidSetting(f"'{name}' is another weight in the base" for name in wrong)
    changes = {name: method.compress(tuned[name] - base[name]) for name in tuned}
    return Delta(changes, fingerprint(base))


def restored(base: Mapping[str, Tensor], delta: Delta) -> dict[str, Tensor]:
    """``W_base`` plus the change, by name.

    Raises:
        InvalidSetting: the base is not the one that the change was taken from.
    """
    if fingerprint(base) != delta.base:
        raise InvalidSetting(["the base is not the one that this change was taken from"])
    return {name: base[name] + change.dense() for name, change in delta.changes.items()}


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
