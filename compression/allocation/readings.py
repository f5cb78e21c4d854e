"""What was measured of candidates, for allocators that ask for it."""

from __future__ import annotations

from collections.abc import Sequence

from compression.allocation.base import Candidate
from compression.registry import InvalidSetting


def readings(candidates: Sequence[Candidate], name: str) -> list[float]:
    """One for each candidate.

    Raises:
        InvalidSetting: nothing was measured of some.
    """
    found = [candidate.measured for candidate in candidates]
    if missing := sum(value is None for value in found):
        raise InvalidSetting([f"{name}: nothing was measured of {missing} candidates"])
    return [value for value in found if value is not None]
