"""Freed memory is kept for the next tensor.

glibc gives large blocks back to the system when they are freed and takes new ones, zeroed page by
page, for the next tensor: at the size of a batch of logits or feature maps that costs more than the
arithmetic.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 2**30
"""Bytes that may lie free at the top of the heap."""
LARGEST = 2**30
"""Blocks up to this size come from the heap."""


def keep_freed_memory() -> bool:
    """Keep freed memory in this process; whether its allocator takes the wish (glibc's does).

    Source: mallopt(3). Call it before the first large tensor.
    """
    if not sys.platform.startswith("linux") or not ctypes.util.find_library("c"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))
