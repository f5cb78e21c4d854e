"""What a division of a model is, and what identifies the part before it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from trainables.splits import Inputs
from trainables.tasks.base import Forward

TOLERANCE = 1e-5
"""Relative to the largest output: how near the divided model has to come to the whole one."""

NEAR = 1e-4
"""Relative to the largest value: how near the same examples come to each other in two passes."""

Capture = Callable[[Inputs], dict[str, Tensor]]


@dataclass(frozen=True)
class NoCut:
    """Nothing can be run once for all trials, and why, as the end of "nothing is skipped: "."""

    reason: str


@dataclass(frozen=True, eq=False)
class Cut(ABC):
    """A place that divides a model: what comes before depends on no changed layer.

    ``key`` is a hash of what the prefix computes, apart from the tensors that it reads: these are
    ``state``, by dotted name. ``names`` are those of the values. ``first`` are the changed layers
    whose input stands at the cut as it is, each with the name of that value. ``after`` says where
    the cut is, for people.
    """

    key: str
    state: tuple[str, ...]
    after: str
    names: tuple[str, ...]
    first: Mapping[str, str] = field(default_factory=dict)

    keeps_inputs = False
    """Whether :meth:`resume` takes the model's inputs beside the values at the cut."""

    @abstractmethod
    def capture(self, model: nn.Module) -> Capture:
        """What gives the values at the cut by name, (b, ...) each; computes nothing behind it."""

    @abstractmethod
    def resume(self, model: nn.Module) -> Forward:
        """What gives the model's outputs from the values at the cut. Shares ``model``'s modules."""


def one_line(error: Exception) -> str:
    """An error's type and the first line of its text."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:160]


def tensors_within(model: nn.Module, module: str) -> Iterator[str]:
    """Dotted names of all parameters and buffers of a module, those not saved among them."""
    found = model.get_submodule(module)
    prefix = f"{module}." if module else ""
    for name, _ in (*found.named_parameters(), *found.named_buffers()):
        yield prefix + name


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by dotted name."""
    owner, _, leaf = name.rpartition(".")
    found = getattr(model.get_submodule(owner), leaf)
    if not isinstance(found, Tensor):
        raise TypeError(f"'{name}' is a {type(found).__name__}, not a tensor")
    return found


def near(found: Tensor, expected: Tensor) -> bool:
    """Whether values are the same but for the rounding of other batches, threads or dtypes."""
    if found.shape != expected.shape:
        return False
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(found, expected.to(found.dtype))
    limit = max(NEAR, 4 * torch.finfo(expected.dtype).eps)
    found, expected = found.double(), expected.double()
    largest = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=limit * largest, equal_nan=True)


def weights_hash(model: nn.Module, dense: nn.Module, names: Collection[str]) -> str:
    """Hash of tensors by name and content. What equals the dense model's is not hashed again."""
    found = hashlib.sha256()
    for name in sorted(names):
        tensor, known = tensor_of(model, name), tensor_of(dense, name)
        if tensor is not known and _alike(tensor, known) and torch.equal(tensor, known):
            tensor = known
        found.update(f"{name}|{tensor_hash(tensor)}\n".encode())
    return found.hexdigest()


def _alike(tensor: Tensor, other: Tensor) -> bool:
    return tensor.dtype == other.dtype and tensor.device == other.device


_hashes: WeakIdKeyDictionary = WeakIdKeyDictionary()


def tensor_hash(tensor: Tensor) -> str:
    """Hash of a tensor's content, remembered until it is written to."""
    version = None if tensor.is_inference() else tensor._version
    known, found = _hashes.get(tensor, (None, ""))  # type: ignore[no-untyped-call]
    if version is None or known != version:
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(plain.numpy().data)
        found = digest.hexdigest()
        _hashes[tensor] = (version, found)
    return str(found)
