"""What a trial takes of memory, and how running out of it is told from other errors."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_VMSTAT = Path("/proc/vmstat")
# What torch says on the CPU and in cuBLAS and cuDNN, where the type is a bare RuntimeError.
_REFUSED = re.compile(
    r"can't allocate memory|out of memory|not enough memory|alloc_failed", re.IGNORECASE
)
# Ray's words where its memory monitor ended a worker, and where something else did.
_MONITORED = re.compile(r"OutOfMemoryError|low on memory", re.IGNORECASE)
_KILLED = re.compile(r"SIGKILL", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or one that it was raised from, is a refused allocation."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and _REFUSED.search(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


class Kills:
    """Tells workers that were killed for their memory from those that died of something else."""

    def __init__(self) -> None:
        self._seen = _oom_kills()

    def is_one(self, told: str) -> bool:
        """Whether ``told``, Ray's account of a lost worker, is of such a death.

        Ray's memory monitor says so. The system does not, but counts whom it kills.
        """
        before, self._seen = self._seen, _oom_kills()
        return bool(_MONITORED.search(told) or (_KILLED.search(told) and self._seen > before))


def _oom_kills() -> int:
    """Processes that this machine's kernel killed for memory; 0 where it does not say."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^oom_kill (\d+)$", _VMSTAT.read_text(), re.MULTILINE):
            return int(found[1])
    return 0


class Meter:
    """The most memory that is in use at once from now on.

    On CUDA: bytes that torch allocated on the device (``max_memory_allocated``), without its
    context and without what its allocator holds in reserve. On the CPU: the peak resident set of
    the whole process, Python and its libraries' own data included, less the pages that are mapped
    (programs, cached features, Ray's object store), which processes share; Linux only.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._counts = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            _RESET.write_text("5")  # proc(5): resets VmHWM
        except OSError:
            self._counts = False  # the peak would be that of an earlier trial

    def peak(self) -> int | None:
        """Bytes; None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if not self._counts:
            return None
        sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE))
        if not {"VmHWM", "RssFile", "RssShmem"} <= sizes.keys():
            return None
        # Pages are mapped and stay: there were hardly more of them at the peak.
        return 1024 * (int(sizes["VmHWM"]) - int(sizes["RssFile"]) - int(sizes["RssShmem"]))


def release() -> None:
    """Give back what torch's allocators hold in reserve, so that others can have it."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        with contextlib.suppress(torch.AcceleratorError):  # a card that failed has nothing to give
            torch.cuda.empty_cache()
