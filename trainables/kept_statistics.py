"""Statistics of layers on disk: made once a machine, checked, mapped into every process."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compression.stats import LayerStats
from trainables.cache import folder

LOG = logging.getLogger("paretune")
SHARE = 0.1
"""Of what is free on the disk and what the files take: their budget."""
_PARTS = ("inputs", "gradients")


@dataclass(frozen=True, eq=False)
class Kept:
    """Tensors named ``layer|part|field``, in memory or mapped from a file; equal to itself only."""

    tensors: Mapping[str, Tensor]
    seconds: float

    @classmethod
    def of(cls, stats: Mapping[str, LayerStats], seconds: float) -> Kept:
        """What was taken, and how long that took."""
        tensors = {
            f"{layer}|{part}|{f.name}": torch.as_tensor(value).contiguous()
            for layer, found in stats.items()
            for part in _PARTS
            if (values := getattr(found, part)) is not None
            for f in fields(values)
            if (value := getattr(values, f.name)) is not None
        }
        return cls(tensors, seconds)

    @cached_property
    def layers(self) -> dict[str, None]:
        """Their names."""
        return dict.fromkeys(name.split("|")[0] for name in self.tensors)

    def parts(self, layer: str) -> dict[str, dict[str, Any]]:
        """The fields of a layer's statistics, by part."""
        found: dict[str, dict[str, Any]] = {}
        for name, value in self.tensors.items():
            owner, part, field = name.split("|")
            if owner == layer:
                found.setdefault(part, {})[field] = value if value.ndim else int(value)
        return found


_known: dict[str, Kept] = {}


def find(key: str, make: Callable[[], Kept]) -> Kept:
    """What is kept under a key, made first where it is missing or damaged: once a machine.

    What can't be written is kept in this process, which is said.
    """
    if key not in _known:
        path = folder() / "calibration" / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
        try:
            with _locked(path):
                _known[key] = _read(path) or _written(path, make())
        except _NotWritten as error:
            LOG.warning("calibration is not kept for other processes: %s", error)
            _known[key] = error.kept
    return _known[key]


class _NotWritten(Exception):
    def __init__(self, kept: Kept, why: object) -> None:
        super().__init__(str(why))
        self.kept = kept


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process makes it, the others wait; without a folder to lock in, each makes its own."""
    held: int | None = None
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _read(path: Path) -> Kept | None:
    """The file's content, which stays mapped though the file be deleted; None if it is no good."""
    try:
        with safe_open(path, "pt") as opened:
            about = opened.metadata()
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        whole = all(about[key] == _hash(tensor) for key, tensor in tensors.items())
        seconds = float(about["seconds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    if not whole:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the last that has to go for room
    return Kept(tensors, seconds)


def _written(path: Path, kept: Kept) -> Kept:
    """What was made, as it comes back from its file.

    Raises:
        _NotWritten: the folder can't be written, or has no room.
    """
    about = {key: _hash(tensor) for key, tensor in kept.tensors.items()}
    size = sum(tensor.nbytes for tensor in kept.tensors.values())
    try:
        _make_room(path.parent, size)
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            part = Path(aside, path.name)
            save_file(dict(kept.tensors), part, about | {"seconds": repr(kept.seconds)})
            os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise _NotWritten(kept, error) from error
    return _read(path) or kept


def _make_room(where: Path, size: int) -> None:
    """Delete what was not used for longest, as far as the budget asks."""
    files = sorted(where.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    sizes = {file: file.stat().st_size for file in files}
    disk = os.statvfs(where)
    budget = int(SHARE * (disk.f_bavail * disk.f_frsize + sum(sizes.values())))
    used = sum(sizes.values())
    while files and used + size > budget:
        oldest = files.pop(0)
        used -= sizes[oldest]
        oldest.unlink(missing_ok=True)
    if size > budget:
        raise OSError(f"{size / 1e6:.0f} MB are above the budget of {budget / 1e6:.0f} MB")


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
