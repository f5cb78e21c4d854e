"""Numbers of bytes as people write them."""

from __future__ import annotations

import math
import re

NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_BYTES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_bytes(value: object) -> float:
    """Bytes from ``5000000``, ``5e6``, ``5 MB`` (powers of 1000) or ``5 MiB`` (of 1024).

    Raises:
        ValueError: anything else.
    """
    found = re.fullmatch(rf"({NUMBER})\s*([A-Za-z]*)", str(value))
    if not found or found[2] not in _BYTES:
        raise ValueError(f"expected bytes such as 200 kB, 5 MB or 1.5 MiB, got {value!r}")
    if not math.isfinite(amount := float(found[1]) * _BYTES[found[2]]):
        raise ValueError(f"expected a finite number of bytes, got {value!r}")
    return amount
