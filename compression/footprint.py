"""Memory that a model keeps, and that a call of it takes for a while."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compression.kernels import ReadyWeight


def resident_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, as memory: shared and viewed storage once, and whole."""
    tensors = (*model.parameters(), *model.buffers())
    storages: list[Any] = [tensor.untyped_storage() for tensor in tensors]
    sizes = {int(storage.data_ptr()): int(storage.nbytes()) for storage in storages}
    return sum(sizes.values())


def stated_scratch(model: nn.Module) -> int:
    """The most that any packed layer says to hold during a call; they run one after the other."""
    parts = (part for part in model.modules() if isinstance(part, ReadyWeight))
    return max((part.scratch_bytes for part in parts), default=0)


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes of the tensors alive at once that torch made during ``run``, at most.

    Beside what was there before. What an operator takes and gives back inside itself, and what is
    no tensor, is not seen.
    """
    counting = _Counting()
    with counting:
        run()
    return counting.most


class _Counting(TorchDispatchMode):
    """Adds up storages as operators give them out, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator; count storages that none of its inputs has."""
        given = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and _key(tensor) not in given | self._seen:
                self._count(tensor)
        return found

    def _count(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        self._seen.add(key)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
